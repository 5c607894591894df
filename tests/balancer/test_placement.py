"""Placement of workers on devices."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest
from trimode.balancer.placement import place_workers
from trimode.balancer.settings import BalancerSettings
from trimode.core.errors import ConfigError
from trimode.core.project import PROJECT_DIR
from trimode.core.protocol import WorkerSettings
from trimode.tests.fakes.machine import machine


def settings(device: str, num_workers: int | None = None) -> BalancerSettings:
    return BalancerSettings(worker=WorkerSettings(model="m", device=device), num_workers=num_workers)


@pytest.fixture(autouse=True)
def four_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trimode.core.devices.ROOT", machine(tmp_path, listed=4, files=4))


def test_one_worker_per_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    placement = place_workers(settings("auto"))
    assert (placement.num_workers, placement.gpus_per_worker, placement.worker.device) == (3, 1, "cuda")
    assert place_workers(settings("cuda", 2)).num_workers == 2


def test_slurms_word_for_no_gpu_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "NoDevFiles")
    assert place_workers(settings("auto")).worker.device == "cpu"


def test_wsl_has_one_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trimode.core.devices.ROOT", machine(tmp_path / "wsl", wsl=True))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert place_workers(settings("auto")).worker.device == "cuda"


def test_asking_for_gpus_that_are_not_there_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(ConfigError, match="--device: got cuda"):
        place_workers(settings("cuda"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(ConfigError, match="at most 1"):
        place_workers(settings("auto", 2))


def test_cpu_workers_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    placement = place_workers(settings("cpu", 3))
    assert (placement.num_workers, placement.gpus_per_worker, placement.worker.num_threads) == (3, 0, 2)
    assert place_workers(settings("cpu")).worker.num_threads == 8


def test_a_small_model_gets_one_thread_unless_more_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    demo = settings("cpu")
    small = dataclasses.replace(
        demo, worker=dataclasses.replace(demo.worker, model=str(PROJECT_DIR / "assets/demo_model"))
    )
    assert place_workers(small).worker.num_threads == 1
    asked = dataclasses.replace(small, worker=dataclasses.replace(small.worker, num_threads=4))
    assert place_workers(asked).worker.num_threads == 4
