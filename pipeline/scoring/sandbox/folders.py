"""The folder of one program while it runs. What a killed process left is removed by the next one that scores."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

PREFIX = "trimode-sandbox-"
"""How the names of folders begin whose user holds a lock on them."""
NEW_PREFIX = f".{PREFIX}"
"""How the names of folders begin that are being made and have no lock yet."""
NEW_S = 600.0
"""A folder that is still being made after this many seconds was left by a kill."""


@contextlib.contextmanager
def sandbox_folder() -> Iterator[Path]:
    """Yields an empty folder that is removed at the end. It is locked meanwhile, so `remove_left` leaves it alone."""
    new = Path(tempfile.mkdtemp(prefix=NEW_PREFIX))
    handle = os.open(new, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        folder = new.rename(new.with_name(new.name.removeprefix(".")))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(handle)


def remove_left() -> None:
    """Removes the folders of this user that no living process uses."""
    for folder in Path(tempfile.gettempdir()).glob(f"*{PREFIX}*"):
        with contextlib.suppress(OSError):
            status = folder.lstat()
            is_new = folder.name.startswith(NEW_PREFIX) and time.time() - status.st_mtime < NEW_S
            if status.st_uid == os.getuid() and folder.name.startswith((PREFIX, NEW_PREFIX)) and not is_new:
                _remove_unused(folder)


def _remove_unused(folder: Path) -> None:
    """Removes a folder unless it is locked. Raises OSError if it is, or is no folder."""
    handle = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(handle)
