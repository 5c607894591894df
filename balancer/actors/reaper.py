"""Waits for the balancer to end, however it ends, then ends what it left behind and removes its temporary folder.

Every process of one balancer has the temporary folder as its current folder, and is found by that. The reaper inherits
the lock of the folder and holds it until its end. Run as a script with the standard library alone:
`python -I reaper.py FOLDER`, with standard input held open by the balancer.
"""

from __future__ import annotations

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


def main() -> None:
    """Blocks until standard input closes, which happens when the balancer ends, then reaps."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):  # Slurm warns so
        signal.signal(number, signal.SIG_IGN)
    folder = os.path.realpath(sys.argv[1])
    os.chdir("/")
    while os.read(0, 4096):
        pass
    reap(folder)


if __name__ == "__main__":
    main()
