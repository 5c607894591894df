"""Waits for the balancer to end, however it ends, then ends what it left behind and removes its temporary folder.

Every process of one balancer has the temporary folder as its current folder, and is found by that. Run as a script
with the standard library alone: `python -I reaper.py FOLDER`, with standard input held open by the balancer.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import sys
import time
from pathlib import Path

GRACE_S = 1.0
"""Seconds that left processes get to end by themselves before they are killed; Ray's follow their driver."""
KILL_S = 5.0
"""Longest wait for killed processes to end, in seconds."""
NEW_S = 600.0
"""A folder younger than this many seconds may belong to a balancer that is just starting."""


def processes_in(folder: str) -> list[int]:
    """Returns the ids of living processes whose current folder is `folder`, except this process."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if str((entry / "cwd").readlink()).removesuffix(" (deleted)") == folder:
                found.append(int(entry.name))
        except OSError:
            continue  # gone, a zombie, or another user's
    return found


def reap(folder: str) -> None:
    """Ends every process in `folder` and removes it."""
    deadline = time.monotonic() + GRACE_S
    while processes_in(folder) and time.monotonic() < deadline:
        time.sleep(0.02)
    end_processes(folder)
    shutil.rmtree(folder, ignore_errors=True)


def end_processes(folder: str) -> None:
    """Kills every process in `folder` except this one, and waits until they are gone."""
    deadline = time.monotonic() + KILL_S
    while (left := processes_in(folder)) and time.monotonic() < deadline:
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.02)


def sweep(parent: Path, prefix: str) -> None:
    """Removes folders in `parent` whose reaper was killed too, as happens when a whole job is killed."""
    for folder in parent.glob(f"{prefix}*"):
        try:
            status = folder.lstat()
            if status.st_uid != os.getuid() or not folder.is_dir() or time.time() - status.st_mtime < NEW_S:
                continue
            handle = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:
            continue  # in use
        finally:
            os.close(handle)


def main() -> None:
    """Blocks until standard input closes, which happens when the balancer ends, then reaps."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):  # Slurm warns so
        signal.signal(number, signal.SIG_IGN)
    folder = os.path.realpath(sys.argv[1])
    os.chdir("/")
    fcntl.flock(os.open(folder, os.O_RDONLY), fcntl.LOCK_EX)  # tells `sweep` that the folder is in use
    while os.read(0, 4096):
        pass
    reap(folder)


if __name__ == "__main__":
    main()
