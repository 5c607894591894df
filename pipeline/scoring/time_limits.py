"""Makes time limits inside a scoring process count its CPU time, so that no verdict depends on how busy the machine is.

What runs into a limit of CPU seconds is too slow on any day. A limit on the clock may cut short what only waited for a
processor.
"""

from __future__ import annotations

import math
import signal
from types import FrameType


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
