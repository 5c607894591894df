"""A private Ray head on loopback: its start and its end."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import ray
from ray._private import services
from trimode.balancer.actors.private_folder import PrivateFolder
from trimode.balancer.actors.reaper import processes_in
from trimode.core.errors import WorkerError

OBJECT_STORE_BYTES = 80 * 2**20
"""The smallest that Ray accepts: prompts and replies travel inside the calls."""
START_S = 300.0
"""Seconds that the head may take to start. Ray's own limit is half a minute, which a busy machine exceeds."""


def start_ray(folder: PrivateFolder, *, num_cpus: int, num_gpus: int) -> None:
    """Starts the head inside `folder` and connects to it. WorkerError when Ray cannot start."""
    os.chdir(folder.path)
    try:
        with _long_wait(folder.path):
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
def _long_wait(folder: Path) -> Iterator[None]:
    """Makes Ray wait for its new node for START_S, or until the node's raylet has ended.

    Ray's own limit is fixed in its code, and Ray waits for it even when the raylet is dead.
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
                    raise WorkerError("Ray cannot start: its raylet ended at once" + last_error_line(folder)) from None
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    services.get_node = get_node
    try:
        yield
    finally:
        services.get_node = original


def raylets_in(folder: Path) -> list[int]:
    """Returns the process ids of the living raylets of the balancer whose folder this is."""
    return [pid for pid in processes_in(str(folder)) if _name(pid) == "raylet"]


def _name(pid: int) -> str:
    try:
        return str(psutil.Process(pid).name())
    except psutil.Error:  # it has ended meanwhile
        return ""


def last_error_line(folder: Path) -> str:
    """Returns the last line of the raylet's error file with ": " before it; empty when the file has none."""
    for path in sorted(folder.glob("session_*/logs/raylet.err")):
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
        written = [line for line in lines if line.strip()]
        if written:
            return f": {written[-1][:500]}"
    return ""


def stop_ray() -> None:
    """Ends Ray's processes, if it was started."""
    if ray.is_initialized():
        ray.shutdown()
