"""Time limits inside a scoring process, so that no verdict depends on how busy the machine is.

A limit that counts CPU seconds is exact: what runs into it is too slow on any day. A limit that counts wall-clock
seconds may cut short a program that only waited for the processor. A scorer that acts on such a limit calls
`note_timeout`; the pool then judges the row once more while it scores nothing else, and only that verdict counts.
"""

from __future__ import annotations

import math
import signal
from types import FrameType

TIMED_OUT = "_timed_out"
"""Key of a verdict that a wall-clock limit may have decided. It never reaches a row."""

_noted = False


def note_timeout() -> None:
    """Notes that a wall-clock limit acted while the present row was scored."""
    global _noted
    _noted = True


def take_timeout() -> bool:
    """Returns True if a limit was noted since the last call, and forgets it."""
    global _noted
    noted, _noted = _noted, False
    return noted


def count_cpu_seconds() -> None:
    """Makes `signal.alarm` of this process count its CPU seconds in place of wall-clock seconds.

    Libraries limit themselves with it: math-verify gives each comparison some seconds and calls it unequal after that.
    The handler of SIGALRM is called as before.
    """
    signal.signal(signal.SIGPROF, _ring)
    signal.alarm = _alarm


def _alarm(seconds: int) -> int:
    """Replaces `signal.alarm`: returns the whole seconds that an earlier alarm had left."""
    left, _ = signal.setitimer(signal.ITIMER_PROF, seconds)
    return math.ceil(left)


def _ring(_number: int, frame: FrameType | None) -> None:
    handler = signal.getsignal(signal.SIGALRM)
    if callable(handler):
        handler(signal.SIGALRM, frame)
