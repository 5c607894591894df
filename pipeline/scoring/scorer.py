"""What every scorer offers: the verdict of one row, the verdict of no answer, and a check that it can run at all.

Knows no scorer by name and reads no files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from trimode.core.protocol import Row
from trimode.pipeline.benchmarks import Benchmark


class Scorer(Protocol):
    """The three functions a scorer module defines, and its two facts."""

    VERDICT_KEYS: tuple[str, ...]
    """Fields `score` adds, in the order NeMo-Skills writes them."""
    ROW_LIMIT_S: float
    """Wall-clock seconds one row may take before it is marked as not scored."""

    def score(self, benchmark: Benchmark, row: Row, data_dir: Path | None) -> Row:
        """The verdict fields of `row`. Pure; may take up to ROW_LIMIT_S. Raises on a row it cannot judge."""

    def no_answer(self, benchmark: Benchmark, row: Row) -> Row:
        """The verdict fields of a row that has no answer to judge: wrong, never an error."""

    def check(self, benchmark: Benchmark, data_dir: Path | None) -> None:
        """Returns when rows of `benchmark` can be scored here; raises ConfigError with the remedy otherwise."""


def answer_text(benchmark: Benchmark, row: Row) -> str | None:
    """The text to judge, or None when the request failed and there is none."""
    text = row.get(benchmark.generation_key)
    return text if isinstance(text, str) else None
