"""Recorded results of NeMo-Skills: heads that are part of the repository, and the full records where they are at hand.

A test that needs a head fails without it. The full records, and the public data sets that belong to them, lie in the
folder that TRIMODE_GOLDENS names, else beside the checkout. Tests that need them are skipped where they are missing.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from trimode.core.project import PROJECT_DIR

HEADS = Path(__file__).with_name("data") / "nemo_skills"
_FOLDER = Path(os.environ.get("TRIMODE_GOLDENS") or PROJECT_DIR.parent / "shared" / "goldens")
FULL = _FOLDER / "nemo_skills"
DATA = _FOLDER.parent / "data"
"""A data folder with the files that the publishers of the benchmarks offer."""

needs_full = pytest.mark.skipif(
    not FULL.is_dir() or not DATA.is_dir(),
    reason="the full records of NeMo-Skills are not here; TRIMODE_GOLDENS names their folder",
)


def rows(name: str, folder: Path = HEADS) -> list[dict[str, Any]]:
    """Returns the rows of one recorded file."""
    with (folder / name).open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def value(name: str, folder: Path = HEADS) -> Any:
    """Returns the content of one recorded JSON file."""
    return json.loads((folder / name).read_text(encoding="utf-8"))
