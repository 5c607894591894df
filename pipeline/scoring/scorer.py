"""The contract of a scorer module: the verdict of one row, the verdict of no answer, and a check that it can run."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from trimode.core.protocol import Row
from trimode.pipeline.benchmarks import Benchmark


class Scorer(Protocol):
    """The three functions and two constants that every scorer module defines."""

    VERDICT_KEYS: tuple[str, ...]
    """Fields `score` adds, in the order NeMo-Skills writes them."""
    ROW_LIMIT_S: float
    """Wall-clock seconds for one row. A row that takes longer is marked as not scored."""

    def score(self, benchmark: Benchmark, row: Row, data_dir: Path | None) -> Row:
        """Returns the verdict fields of `row`; may take up to ROW_LIMIT_S. Raises on a row that it cannot judge."""

    def no_answer(self, benchmark: Benchmark, row: Row) -> Row:
        """Returns the verdict fields of a row without an answer: wrong, never an error."""

    def check(self, benchmark: Benchmark, data_dir: Path | None) -> None:
        """Raises ConfigError with the remedy if rows of `benchmark` cannot be scored here."""


def answer_text(benchmark: Benchmark, row: Row) -> str | None:
    """Returns the text to judge, or None if the request failed."""
    text = row.get(benchmark.generation_key)
    return text if isinstance(text, str) else None
