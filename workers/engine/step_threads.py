"""How many CPU threads a step of a small model has: by its size, and by what other programs leave of the cores.

The kernels of a small model run for microseconds and end by waiting for each other. Two threads gain where a step has
some work and every thread has a core. Where another program uses one of the cores, two threads lose at every size,
because at each kernel one waits until the other gets a core again. Results do not depend on the number of threads.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Set
from pathlib import Path

SMALL_STEP = 16_000_000
"""Multiplications of a step up to which one thread is as fast as several: 8 rows of a model of 4 MB in bfloat16."""
QUIET_CORES = 0.15
"""Cores that others may use beside several threads."""
_WINDOW_S = 0.2
"""Seconds of a look at what others use. The system counts in steps of 0.01 s."""
_IDLE_FIELDS = slice(3, 5)
"""Of the numbers of a core in /proc/stat: idle, and waiting for a disk."""
_ALL_FIELDS = slice(0, 8)
"""The others are counted in these already."""


def busy_seconds(path: Path, cores: Set[int]) -> float | None:
    """Returns the seconds that all programs together have used these cores since the start of the system.

    Args:
        path: /proc/stat.
        cores: their numbers.

    Returns:
        None if the system does not say it.
    """
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    names, ticks, found = {f"cpu{number}" for number in cores}, 0, False
    for line in lines:
        name, *numbers = line.split()
        if name in names:
            counted = [int(number) for number in numbers]
            ticks += sum(counted[_ALL_FIELDS]) - sum(counted[_IDLE_FIELDS])
            found = True
        elif not name.startswith("cpu"):
            break
    return ticks / os.sysconf("SC_CLK_TCK") if found else None


def used_by_all() -> float | None:
    """Returns the seconds that all programs together have used the cores of this process; None if nobody says it."""
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    return busy_seconds(Path("/proc/stat"), cores)


class StepThreads:
    """Chooses the number of threads of each step."""

    def __init__(
        self,
        most: int,
        multiplications: int,
        *,
        all_s: Callable[[], float | None] = used_by_all,
        own_s: Callable[[], float] = time.process_time,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Steps have one thread until a first look at the other programs is complete.

        Args:
            most: threads of a step that has work for them while others use next to nothing.
            multiplications: of one token with the weights.
            all_s: seconds that all programs have used this process's cores; None = unknown, then one thread.
            own_s: those that this process has used.
            now: a clock.
        """
        self._most, self._multiplications = most, multiplications
        self._all_s, self._own_s, self._now = all_s, own_s, now
        self._look = self._begin()
        self._quiet = False

    def _begin(self) -> tuple[float, float, float | None]:
        return self._now(), self._own_s(), self._all_s()

    def of_step(self, tokens: int) -> int:
        """Returns the threads of a step with so many tokens."""
        began, own, every = self._look
        if self._now() - began >= _WINDOW_S:
            self._look = now, now_own, now_every = self._begin()
            if every is None or now_every is None:
                self._quiet = False
            else:
                others = (now_every - every) - (now_own - own)
                self._quiet = others <= QUIET_CORES * (now - began)
        return self._most if self._quiet and tokens * self._multiplications > SMALL_STEP else 1
