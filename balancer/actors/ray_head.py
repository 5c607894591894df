"""A private Ray head on loopback: its environment, its start and its end.

Knows nothing of requests, workers or HTTP.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import ray
from ray._private import services
from trimode.balancer.actors.private_folder import PrivateFolder
from trimode.balancer.actors.reaper import processes_in
from trimode.core.errors import WorkerError

OBJECT_STORE_BYTES = 80 * 2**20
"""Prompts and replies travel inside the calls; the store is Ray's smallest."""
START_S = 300.0
"""How long the head may take to come up. Ray's own limit is half a minute, which a crowded machine exceeds."""


def start_ray(folder: PrivateFolder, *, num_cpus: int, num_gpus: int) -> None:
    """Starts the head inside `folder` and connects, in a few seconds; WorkerError when Ray cannot start."""
    os.chdir(folder.path)
    try:
        with _patience(folder.path):
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
    except WorkerError:
        raise
    except Exception as error:  # noqa: BLE001 (Ray raises a bare Exception when its head does not come up)
        raise WorkerError(f"Ray cannot start: {type(error).__name__}: {error}") from None


@contextlib.contextmanager
def _patience(folder: Path) -> Iterator[None]:
    """Makes the question for the new node last START_S, or until its raylet has ended.

    Ray's own limit is a number in its code, out of reach, and it does not look whether anybody is left to answer.
    """
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
                if not raylets_in(folder):
                    raise WorkerError("Ray cannot start: its raylet ended at once" + raylet_words(folder)) from None
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    services.get_node = get_node
    try:
        yield
    finally:
        services.get_node = original


def raylets_in(folder: Path) -> list[int]:
    """Ids of the living raylets of the balancer whose folder this is."""
    return [pid for pid in processes_in(str(folder)) if _name(pid) == "raylet"]


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip()
    except OSError:  # gone meanwhile
        return ""


def raylet_words(folder: Path) -> str:
    """The last line the raylet wrote to its error file, ready to follow a message; empty when it wrote none."""
    for path in sorted(folder.glob("session_*/logs/raylet.err")):
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
        said = [line for line in lines if line.strip()]
        if said:
            return f": {said[-1][:500]}"
    return ""


def stop_ray() -> None:
    """Ends Ray's processes, if it was started."""
    if ray.is_initialized():
        ray.shutdown()
