"""Counting GPUs; the system's folders are folders that the tests fill."""

from __future__ import annotations

from pathlib import Path

import pytest
from trimode.core.devices import SMALL_MODEL_BYTES, cpu_threads, visible_gpus
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


def test_a_small_model_has_one_thread(tmp_path: Path) -> None:
    assert cpu_threads(str(tmp_path), 8) == 8, "a folder without weights says nothing"
    assert cpu_threads("nvidia/Nemotron-Labs-Diffusion-8B", 8) == 8
    for name in ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(SMALL_MODEL_BYTES // 2)
    assert cpu_threads(str(tmp_path), 8) == 1
    with (tmp_path / "model-00002-of-00002.safetensors").open("ab") as file:
        file.write(b"0")
    assert cpu_threads(str(tmp_path), 8) == 8
