"""How long the pool waits for one row: seconds on the clock at first, CPU seconds when the row is judged alone."""

from __future__ import annotations

import contextlib
import time

import psutil

ALONE_FACTOR = 10.0
"""A row that is judged alone gets this many times its limit on the clock, but no more CPU time."""
IDLE_SHARE = 0.01
"""A scoring process that uses less of a processor than this, over its whole limit, hangs."""


class Patience:
    """Decides when a scoring process has had enough time for one row.

    At first the limit counts on the clock. Alone it counts the CPU seconds of the process and its descendants, so a
    machine that is busy with other work costs no verdict; a process that only sleeps is ended after its limit all the
    same.
    """

    def __init__(self, limit_s: float, pid: int, alone: bool) -> None:
        self._limit_s = limit_s
        self._pid = pid
        self._alone = alone
        self._began = self._checked = time.monotonic()
        self._cpu_at_start = self._cpu_at_check = cpu_seconds(pid) if alone else 0.0

    def is_over(self) -> bool:
        """True if the process must be ended."""
        now = time.monotonic()
        if not self._alone:
            return now - self._began >= self._limit_s
        used = cpu_seconds(self._pid)
        if used - self._cpu_at_start >= self._limit_s or now - self._began >= ALONE_FACTOR * self._limit_s:
            return True
        if now - self._checked < self._limit_s:
            return False
        idle = used - self._cpu_at_check < IDLE_SHARE * self._limit_s
        self._checked, self._cpu_at_check = now, used
        return idle

    def pause_s(self) -> float:
        """Returns how long to wait before `is_over` is asked again."""
        left = self._began + self._limit_s - time.monotonic()
        return 0.2 if self._alone else max(0.0, left)


def cpu_seconds(pid: int) -> float:
    """Returns the CPU seconds of a process and its descendants, those that have ended included; 0 if it is gone."""
    total = 0.0
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                total += sum(one.cpu_times()[:4])  # user, system, and both of ended children
    return total
