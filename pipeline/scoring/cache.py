"""The folder where scorers keep results that are expensive to compute again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """Returns $TRIMODE_CACHE, else $XDG_CACHE_HOME/trimode, else ~/.cache/trimode. Does not create it."""
    if override := os.environ.get("TRIMODE_CACHE"):
        return Path(override)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trimode"
