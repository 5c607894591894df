"""What this process may use: visible GPUs, CPU cores, and the shares of them that each worker gets.

Knows no torch: it must answer before anything heavy is loaded.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path

from trimode.balancer.settings import BalancerSettings
from trimode.workers.protocol import ConfigError, WorkerSettings

_NVIDIA_GPUS = Path("/proc/driver/nvidia/gpus")


@dataclass(frozen=True, slots=True)
class Placement:
    """How many workers, and what each of them is told."""

    num_workers: int
    gpus_per_worker: int
    """1 on a GPU machine, 0 on CPU."""
    worker: WorkerSettings


def visible_gpus() -> int:
    """GPUs this process may use: CUDA_VISIBLE_DEVICES where it is set, else those the driver lists."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return len([name for name in named.split(",") if name.strip() and name.strip() != "-1"])
    try:
        return sum(1 for _ in _NVIDIA_GPUS.iterdir())
    except OSError:
        return 0


def place_workers(settings: BalancerSettings) -> Placement:
    """One worker per device; ConfigError when `--device cuda` sees no GPU or fewer than workers."""
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
    threads = settings.worker.num_threads or max(1, len(os.sched_getaffinity(0)) // num_workers)
    worker = dataclasses.replace(settings.worker, device=device, num_threads=threads)
    return Placement(num_workers, int(device == "cuda"), worker)
