"""Counting GPUs; the system's folders are folders that the tests fill."""

from __future__ import annotations

from pathlib import Path

import pytest
from trimode.core.devices import visible_gpus
from trimode.tests.fakes.machine import machine


@pytest.mark.parametrize(
    ("listed", "files", "count"),
    [(0, 0, 0), (0, 3, 3), (3, 0, 3), (2, 2, 2), (8, 1, 1)],
    ids=["none", "no list", "no files yet", "both", "container with one of eight"],
)
def test_gpus_present_are_counted(tmp_path: Path, listed: int, files: int, count: int) -> None:
    assert visible_gpus({}, machine(tmp_path, listed=listed, files=files)) == count


def test_wsl_counts_as_one(tmp_path: Path) -> None:
    assert visible_gpus({}, machine(tmp_path, wsl=True)) == 1


@pytest.mark.parametrize(
    ("chosen", "count"),
    [("0,2", 2), ("", 0), (" ", 0), ("-1", 0), ("NoDevFiles", 0), ("GPU-aaa", 1), ("GPU-aaa, GPU-bbb", 2)],
)
def test_cuda_visible_devices_cuts(tmp_path: Path, chosen: str, count: int) -> None:
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": chosen}, machine(tmp_path, listed=3, files=3)) == count


def test_parts_of_one_gpu_count_each(tmp_path: Path) -> None:
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "MIG-a,MIG-b"}, machine(tmp_path, files=1)) == 2


def test_a_variable_alone_makes_no_gpu(tmp_path: Path) -> None:
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "0,1"}, machine(tmp_path)) == 0


def test_without_arguments_this_process_and_this_machine_are_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trimode.core.devices.ROOT", machine(tmp_path, files=3))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_gpus() == 3
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert visible_gpus() == 1
