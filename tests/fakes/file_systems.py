"""Small file systems that fill up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

Mount = Callable[..., Path]
"""Takes mount options and returns the folder of a new file system."""


def fill(folder: Path) -> Path:
    """Fills the file system of a folder with the file `fill`. Returns the folder."""
    with (folder / "fill").open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(bytes(4096))
    return folder
