"""Notices the end of Ray's own processes. Ray itself would let its driver wait for ever."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psutil
from trimode.balancer.actors.reaper import processes_in

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


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
