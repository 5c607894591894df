"""Finds a worker that is alive but does nothing: it has requests, and yet no step of its engine ends."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

from trimode.balancer.work import WorkerSlot
from trimode.core.worker import Worker

LOOKS = 10
"""Looks within the time limit."""
LONGEST_LOOK_S = 10.0


class Watched(Worker, Protocol):
    """A worker whose progress can be asked."""

    async def progress(self) -> object:
        """Returns what changes with each step and each reply, prefill included; None if it does not answer in time."""


async def wait_until_hung(slot: WorkerSlot, worker: Watched, limit_s: float) -> bool:
    """Returns True once the worker has had requests for `limit_s` seconds without progress, False once it is replaced.

    Time in which this process itself did not run counts as one look: a machine that was busy or asleep, and a server
    that was stopped by Ctrl-Z together with its workers, are no fault of a worker.
    """
    look_s = min(limit_s / LOOKS, LONGEST_LOOK_S)
    seen: object = None
    quiet_s, last = 0.0, time.monotonic()
    while slot.worker is worker:
        await asyncio.sleep(look_s)
        now = await worker.progress() if slot.running else None
        began, last = last, time.monotonic()
        if not slot.running or (now is not None and now != seen):
            seen, quiet_s = now, 0.0
            continue
        quiet_s += min(last - began, 2 * look_s)
        if quiet_s >= limit_s:
            return slot.worker is worker
    return False
