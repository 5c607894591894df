"""The folder of one program while it runs. What a killed process left is removed by the next one that scores."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from trimode.core.locked_folder import make_locked, remove_unlocked

PREFIX = "trimode-sandbox-"


@contextlib.contextmanager
def sandbox_folder() -> Iterator[Path]:
    """Yields an empty folder that is removed at the end. It is locked meanwhile, so `remove_left` leaves it alone."""
    folder, handle = make_locked(Path(tempfile.gettempdir()), PREFIX)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


def remove_left() -> None:
    """Removes the folders of this user that no living process uses."""
    remove_unlocked(Path(tempfile.gettempdir()), PREFIX)
