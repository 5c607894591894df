"""Ties a process to those it lives for, so that nothing is left behind when one of them is killed (Linux only).

Knows nothing of jobs, Slurm or Ray.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path

PR_SET_PDEATHSIG = 1
"""From Linux's prctl.h; the setting survives exec and is dropped by fork."""
PR_SET_CHILD_SUBREAPER = 36
"""From Linux's prctl.h."""


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A process for good: a pid alone may be handed out again."""

    pid: int
    started: int
    """Clock ticks after boot at which it started."""

    def alive(self) -> bool:
        """False once the process is gone or a zombie, also when its pid belongs to another one now."""
        return process_id(self.pid) == self


def process_id(pid: int) -> ProcessId | None:
    """The living process behind `pid` on this machine; None for a dead or zombie one."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else ProcessId(pid, int(fields[19]))


def die_with_parent(sig: int = signal.SIGKILL, parent_pid: int | None = None) -> None:
    """The kernel sends `sig` to this process when the thread that started it ends. Fit for `Popen(preexec_fn=...)`.

    With `parent_pid`, a parent that is already gone counts too.
    """
    _prctl(PR_SET_PDEATHSIG, int(sig))
    if parent_pid is not None and os.getppid() != parent_pid:
        os.kill(os.getpid(), sig)


def adopt_orphans() -> None:
    """Processes below this one whose parent ends become its children instead of init's."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), f"prctl({option}) failed")


def live_with(owners: list[ProcessId], grace_s: float) -> None:
    """Starts a thread: once one of `owners` is gone this process gets SIGTERM every second, SIGKILL after `grace_s`."""
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
    while time.monotonic() < end:  # repeated: the first may come before anybody listens
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1.0)
    os.kill(os.getpid(), signal.SIGKILL)
