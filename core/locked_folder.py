"""Temporary folders that are locked while somebody uses them: what a kill has left is removed by whoever comes next."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from pathlib import Path

BALANCER_FOLDERS = "trimode-balancer-"
"""How the names of the balancers' folders in /tmp begin."""
NEW_S = 600.0
"""A folder that is still being made after this many seconds was left by a kill."""


def make_locked(parent: Path, prefix: str) -> tuple[Path, int]:
    """Returns a new folder for this user alone, and the open descriptor that holds its lock.

    The lock is free again when every process that has inherited the descriptor has closed it or ended.
    """
    new = Path(tempfile.mkdtemp(prefix=f".{prefix}", dir=parent)).resolve()
    handle = os.open(new, os.O_RDONLY | os.O_CLOEXEC)
    fcntl.flock(handle, fcntl.LOCK_EX)
    return new.rename(new.with_name(new.name.removeprefix("."))), handle  # only now others look for its lock


def remove_unlocked(parent: Path, prefix: str) -> None:
    """Removes the folders of this user that nobody has locked."""
    for folder in (*parent.glob(f"{prefix}*"), *parent.glob(f".{prefix}*")):
        with contextlib.suppress(OSError):
            status = folder.lstat()
            is_new = folder.name.startswith(".") and time.time() - status.st_mtime < NEW_S
            if status.st_uid == os.getuid() and not is_new:
                _remove_unless_locked(folder)


def _remove_unless_locked(folder: Path) -> None:
    """Removes a folder. Raises OSError if it is locked, or is no folder."""
    handle = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(handle)
