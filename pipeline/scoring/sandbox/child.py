"""Runs one Python program under limits and kills every process that it leaves behind. `run` starts this module.

Arguments: the bounds and the time limit as JSON, and the program's path. Standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType

from trimode.pipeline.scoring.sandbox.isolation import (
    Bounds,
    FolderWatch,
    end_with_parent,
    enter_namespaces,
    hide,
    isolate,
)

PR_SET_CHILD_SUBREAPER = 36
PAUSE_S = 0.02
"""Seconds between two looks at the program."""


def kill_descendants() -> None:
    """Kills every descendant. Orphans are among the children, because this process is their subreaper."""
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    while True:
        pids = children.read_text(encoding="ascii").split()
        if not pids:
            return
        for pid in map(int, pids):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - a signal handler's signature
    """Handles SIGTERM, sent at the time limit: kills all descendants and exits."""
    kill_descendants()
    os._exit(128 + number)


def wait(pid: int, watch: FolderWatch) -> int:
    """Waits for the program and returns its status. Kills it if its folder grows too large."""
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if watch.is_over():
            os.kill(pid, signal.SIGKILL)
        time.sleep(PAUSE_S)


def probe() -> None:
    """Prints the names of the parts of the protection that are in force."""
    bounds = Bounds(memory_bytes=1 << 30, cpu_s=60)
    in_force = enter_namespaces(Path.cwd(), bounds.folder_bytes)
    if os.fork() == 0:
        print(json.dumps(in_force + isolate(bounds)), flush=True)
        os._exit(0)
    os.wait()


def main() -> None:
    """Forks the program, waits for it, kills what it left, and exits with its status (128 + signal if killed)."""
    if sys.argv[1:] == ["probe"]:
        probe()
        return
    bounds, program = Bounds(**json.loads(sys.argv[1])), Path(sys.argv[2])
    end_with_parent()
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGTERM, stop)
    folder = Path.cwd()
    in_force = enter_namespaces(folder, bounds.folder_bytes)
    hide()
    pid = os.fork()
    if pid == 0:
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            isolate(bounds, fresh="processes" in in_force, program=program)
            os.execv(sys.executable, [sys.executable, "-I", "-B", str(program)])  # noqa: S606 - no shell is the point
        finally:
            os._exit(70)
    status = wait(pid, FolderWatch(folder, bounds.folder_bytes))
    kill_descendants()
    os._exit(status if status >= 0 else 128 - status)
