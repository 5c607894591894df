"""Notices the end of Ray's own processes. Ray itself would let its driver wait for ever."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from trimode.balancer.actors.reaper import processes_in

log = logging.getLogger("trimode.balancer")

NAMES = ("raylet", "gcs_server")
"""Ray's processes without which no worker can be reached or started."""
EVERY_S = 0.5


def ray_processes(folder: Path) -> list[psutil.Process]:
    """Returns the living processes of Ray that belong to the balancer whose folder this is."""
    found = []
    for pid in processes_in(str(folder)):
        try:
            process = psutil.Process(pid)
            if process.name() in NAMES:
                found.append(process)
        except psutil.Error:  # it has ended meanwhile
            continue
    return found


async def wait_until_ray_ends(folder: Path) -> str:
    """Returns once a process of Ray that runs now has ended, and which. Called when Ray has started."""
    processes = {process.name(): process for process in ray_processes(folder)}
    while True:
        for name in NAMES:
            if name not in processes or not _is_alive(processes[name]):
                return f"Ray's {name} was killed or has ended: no worker can be reached without it"
        await asyncio.sleep(EVERY_S)


@contextmanager
def end_with_gcs(folder: Path) -> Iterator[None]:
    """Ends this process at once if Ray's GCS ends while the block runs: Ray would wait for it for minutes.

    The reaper then ends what is left.
    """
    over = threading.Event()
    threading.Thread(target=_watch_gcs, args=(folder, over), name="gcs-watch", daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _watch_gcs(folder: Path, over: threading.Event) -> None:
    gcs: psutil.Process | None = None
    while not over.wait(EVERY_S):
        gcs = gcs or next((found for found in ray_processes(folder) if found.name() == "gcs_server"), None)
        if gcs is not None and not _is_alive(gcs) and not over.is_set():
            log.error("Ray's gcs_server was killed or has ended while Ray started")
            os._exit(1)


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
