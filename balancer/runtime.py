"""A private Ray head on loopback: its environment, its start and its end.

Knows nothing of requests, workers or HTTP.
"""

from __future__ import annotations

import os

import ray
from trimode.balancer.private_folder import PrivateFolder
from trimode.workers.protocol import WorkerError

OBJECT_STORE_BYTES = 80 * 2**20
"""Prompts and replies travel inside the calls; the store is Ray's smallest."""
START_ATTEMPTS = 2
"""Ray gives its head half a minute to come up, which a crowded machine can exceed."""


def start_ray(folder: PrivateFolder, *, num_cpus: int, num_gpus: int) -> None:
    """Starts the head inside `folder` and connects, in a few seconds; WorkerError when Ray cannot start."""
    os.chdir(folder.path)
    for attempt in range(START_ATTEMPTS):
        try:
            _start_head(folder, num_cpus, num_gpus)
        except Exception as error:  # noqa: BLE001 (Ray raises a bare Exception when its head is slow to come up)
            ray.shutdown()
            if attempt == START_ATTEMPTS - 1:
                raise WorkerError(f"Ray cannot start: {type(error).__name__}: {error}") from None
        else:
            return


def _start_head(folder: PrivateFolder, num_cpus: int, num_gpus: int) -> None:
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


def stop_ray() -> None:
    """Ends Ray's processes, if it was started."""
    if ray.is_initialized():
        ray.shutdown()
