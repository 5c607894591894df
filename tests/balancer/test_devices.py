"""Placement of workers on devices."""

from __future__ import annotations

import os

import pytest
from trimode.balancer.devices import place_workers, visible_gpus
from trimode.balancer.settings import BalancerSettings
from trimode.workers.protocol import ConfigError, WorkerSettings


def settings(device: str, num_workers: int | None = None) -> BalancerSettings:
    return BalancerSettings(worker=WorkerSettings(model="m", device=device), num_workers=num_workers)


@pytest.mark.parametrize(("value", "count"), [("", 0), ("0", 1), ("0,3", 2), ("GPU-ab,GPU-cd", 2), ("-1", 0)])
def test_visible_gpus_follow_the_variable(monkeypatch: pytest.MonkeyPatch, value: str, count: int) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert visible_gpus() == count


def test_one_worker_per_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    placement = place_workers(settings("auto"))
    assert (placement.num_workers, placement.gpus_per_worker, placement.worker.device) == (3, 1, "cuda")
    assert place_workers(settings("cuda", 2)).num_workers == 2


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
