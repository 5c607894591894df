"""The GPUs and CPU cores that each worker gets. Does without torch, since it runs before anything heavy is loaded."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass

from trimode.balancer.settings import BalancerSettings
from trimode.core.devices import cpu_threads, visible_gpus
from trimode.core.errors import ConfigError
from trimode.core.protocol import WorkerSettings


@dataclass(frozen=True, slots=True)
class Placement:
    """How many workers a node has, and what each of them gets."""

    num_workers: int
    gpus_per_worker: int
    """1 on a GPU machine, 0 on CPU."""
    worker: WorkerSettings
    """With device and num_threads filled in."""
    num_nodes: int = 1
    """All with the same devices."""


def place_workers(settings: BalancerSettings) -> Placement:
    """Places one worker per device. ConfigError when `--device cuda` sees no GPU, or fewer GPUs than workers."""
    device = settings.worker.device
    num_gpus = 0 if device == "cpu" else visible_gpus()
    if device == "auto":
        device = "cuda" if num_gpus else "cpu"
    if device == "cuda":
        if not num_gpus:
            raise ConfigError("--device: got cuda, but this process sees no GPU; valid here: cpu")
        num_workers = settings.num_workers or num_gpus
        if num_workers > num_gpus:
            raise ConfigError(f"--num-workers: got {num_workers}; valid: at most {num_gpus}, one per visible GPU")
    else:
        num_workers = settings.num_workers or 1
    share = max(1, len(os.sched_getaffinity(0)) // num_workers)
    threads = settings.worker.num_threads or cpu_threads(settings.worker.model, share)
    worker = dataclasses.replace(settings.worker, device=device, num_threads=threads)
    return Placement(num_workers, int(device == "cuda"), worker, settings.num_nodes)
