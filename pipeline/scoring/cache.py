"""The folder where scorers keep what is costly to make again.

Knows nothing of what lies in it.
"""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """$TRIMODE_CACHE, else $XDG_CACHE_HOME/trimode, else ~/.cache/trimode. Not created here."""
    if override := os.environ.get("TRIMODE_CACHE"):
        return Path(override)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trimode"
