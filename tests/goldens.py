"""Where the verdicts of the real NeMo-Skills evaluators lie on a development machine, and how to read them.

Knows no scorer.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

SHARED = Path(__file__).resolve().parents[1].parent / "shared"
GOLDENS = SHARED / "goldens" / "nemo_skills"
DATA = SHARED / "data"

needs_goldens = pytest.mark.skipif(not GOLDENS.is_dir(), reason="no goldens beside this checkout")


def rows(name: str) -> list[dict[str, Any]]:
    """Rows of one golden file."""
    with (GOLDENS / name).open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def value(name: str) -> Any:
    """Content of one golden JSON file."""
    return json.loads((GOLDENS / name).read_text(encoding="utf-8"))
