"""Identifies processes, and ends a process together with those it depends on. Linux only."""

from __future__ import annotations

import ctypes
import gc
import os
import select
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path

PR_SET_PDEATHSIG = 1
"""From Linux's prctl.h; the setting survives exec and is dropped by fork."""

YOUNG_OBJECTS = 10_000
"""So many more objects are made than dropped before the garbage collector looks for cycles among them."""


@dataclass(frozen=True, slots=True)
class ProcessId:
    """One process: its pid, and its start time because a pid is handed out again after the process has ended.

    It is written to owner.json and compared there by other processes. psutil's public start time does not fit: it is
    counted from the epoch and moves with the system's clock.
    """

    pid: int
    started: int
    """Start time in clock ticks after boot."""

    def alive(self) -> bool:
        """True if the process runs. False once it has ended or is a zombie, even if another one has its pid now."""
        return process_id(self.pid) == self


def process_id(pid: int) -> ProcessId | None:
    """Returns the running process with this pid on this machine; None if there is none or it is a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else ProcessId(pid, int(fields[19]))


def die_with_parent(sig: int = signal.SIGKILL) -> None:
    """Asks the kernel to send `sig` to this process when the thread that started it ends.

    Fit for `Popen(preexec_fn=die_with_parent)`.
    """
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(sig), 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")


def spare_collector() -> None:
    """Takes all that lives now out of the garbage collector's sight, and has it run less often.

    For a process that has loaded what it keeps. Otherwise the collector looks through all of it again and again while
    requests wait, some 0.1 to 0.5 seconds each time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, 10, 10)


def serve_job() -> None:
    """Makes this process a helper of its parent, a job: it ends when the job does, and leaves Slurm's warning to it.

    The warning before the time limit, SIGUSR2, reaches every process of the step. The children of this process ignore
    it too. Fit for `Popen(preexec_fn=serve_job)`.
    """
    die_with_parent(signal.SIGKILL)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)


def live_with(owners: list[ProcessId], grace_s: float) -> None:
    """Starts a thread that ends this process once one of `owners` is gone.

    The process then gets SIGTERM every second, and SIGKILL after `grace_s` seconds.
    """
    threading.Thread(target=_watch, args=(owners, grace_s), name="lifeline", daemon=True).start()


def _watch(owners: list[ProcessId], grace_s: float) -> None:
    poll = select.poll()
    for owner in owners:
        try:
            poll.register(os.pidfd_open(owner.pid), select.POLLIN)
        except ProcessLookupError:
            break
        if not owner.alive():
            break
    else:
        poll.poll()
    end = time.monotonic() + grace_s
    while time.monotonic() < end:  # repeated: the first may come before a handler is in place
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1.0)
    os.kill(os.getpid(), signal.SIGKILL)
