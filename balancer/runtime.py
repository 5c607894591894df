"""A private Ray head on loopback: its environment, its start and its end.

Knows nothing of requests, workers or HTTP.
"""

from __future__ import annotations

import os

import ray
from ray.exceptions import RayError
from trimode.balancer.private_folder import PrivateFolder
from trimode.workers.protocol import WorkerError

OBJECT_STORE_BYTES = 80 * 2**20
"""Prompts and replies travel inside the calls; the store is Ray's smallest."""


def start_ray(folder: PrivateFolder, *, num_cpus: int, num_gpus: int) -> None:
    """Starts the head inside `folder` and connects, in a few seconds; WorkerError when Ray cannot start."""
    os.chdir(folder.path)
    try:
        ray.init(
            include_dashboard=False,
            _temp_dir=str(folder.path),
            _node_ip_address="127.0.0.1",
            num_cpus=num_cpus,
            num_gpus=num_gpus,
            object_store_memory=OBJECT_STORE_BYTES,
            log_to_driver=False,
            configure_logging=False,
        )
    except (RuntimeError, OSError, ValueError, RayError) as error:
        raise WorkerError(f"Ray cannot start: {type(error).__name__}: {error}") from None


def stop_ray() -> None:
    """Ends Ray's processes, if it was started."""
    if ray.is_initialized():
        ray.shutdown()
