"""A private Ray head on loopback: its environment, its start and its end.

Knows nothing of requests, workers or HTTP.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator

import ray
from ray._private import services
from trimode.balancer.private_folder import PrivateFolder
from trimode.workers.protocol import WorkerError

OBJECT_STORE_BYTES = 80 * 2**20
"""Prompts and replies travel inside the calls; the store is Ray's smallest."""
START_S = 300.0
"""How long the head may take to come up. Ray's own limit is half a minute, which a crowded machine exceeds."""


def start_ray(folder: PrivateFolder, *, num_cpus: int, num_gpus: int) -> None:
    """Starts the head inside `folder` and connects, in a few seconds; WorkerError when Ray cannot start."""
    os.chdir(folder.path)
    try:
        with _patience():
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
    except Exception as error:  # noqa: BLE001 (Ray raises a bare Exception when its head does not come up)
        raise WorkerError(f"Ray cannot start: {type(error).__name__}: {error}") from None


@contextlib.contextmanager
def _patience() -> Iterator[None]:
    """Makes the question for the new node last START_S; Ray's limit is a number in its code, out of reach."""
    original = getattr(services, "get_node", None)
    if original is None:  # another release of Ray: its own limit holds
        yield
        return

    def get_node(*args: object) -> object:
        deadline = time.monotonic() + START_S
        while True:
            try:
                return original(*args)
            except RuntimeError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    services.get_node = get_node
    try:
        yield
    finally:
        services.get_node = original


def stop_ray() -> None:
    """Ends Ray's processes, if it was started."""
    if ray.is_initialized():
        ray.shutdown()
