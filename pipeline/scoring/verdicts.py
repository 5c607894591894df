"""Reads the verdict of one scored row: its points in the benchmark's metric, if it is right, and what to show of it.

Needs only the fields that scoring wrote: no file is read and no scorer is loaded.
"""

from __future__ import annotations

import math

from trimode.core.errors import ConfigError
from trimode.core.protocol import Row
from trimode.pipeline.benchmarks import Benchmark
from trimode.pipeline.scoring.registry import SCORERS, Points


def row_points(benchmark: Benchmark, row: Row) -> Points:
    """Returns the points of `row` in the benchmark's metric. Raises ConfigError for a metric that its scorer lacks."""
    return _points(benchmark, benchmark.metric, row)


def is_right(benchmark: Benchmark, row: Row) -> bool:
    """True if a scored row is right by the benchmark's metric. For ifeval: if all instructions were followed strictly.

    This is the project's only rule for it. Raises ConfigError for a metric that its scorer lacks.
    """
    facts = SCORERS.get(benchmark.scorer)
    measure = facts.right if facts is not None else None
    return _points(benchmark, measure or benchmark.metric, row).scored[0] == 1.0


def _points(benchmark: Benchmark, measure: str, row: Row) -> Points:
    facts = SCORERS.get(benchmark.scorer)
    measures = facts.measures if facts is not None else {}
    if measure not in measures:
        valid = ", ".join(measures) or "none"
        raise ConfigError(f"metric of {benchmark.name}: got {measure!r}; valid for its scorer: {valid}")
    return measures[measure](row)


def is_scored(benchmark: Benchmark, row: Row) -> bool:
    """True if the row has the verdict that the benchmark's metric reads."""
    try:
        points = row_points(benchmark, row)
        return all(map(math.isfinite, (*points.scored, *points.possible)))
    except (LookupError, TypeError, ValueError, OverflowError):
        return False


def predicted(row: Row) -> str:
    """Returns as text what the scorer found: the extracted answer, the code, or which instructions were followed."""
    if row.get("predicted_answer") is not None:
        return str(row["predicted_answer"])
    if "strict_eval" in row:
        asked = row.get("instruction_id_list")
        names = asked if isinstance(asked, list) else []  # a damaged row may have none
        followed = zip(names, row["strict_eval"]["follow_instruction_list"], strict=False)
        return ", ".join(f"{'✓' if ok else '✗'} {name}" for name, ok in followed)
    return str(row.get("completion") or "")


def expected(row: Row) -> str:
    """Returns as text what the row asks for: the expected answer, the instructions, or the tests."""
    if row.get("expected_answer") is not None:
        return str(row["expected_answer"])
    asked = row.get("instruction_id_list")
    if isinstance(asked, list):
        return ", ".join(map(str, asked))
    for field in ("test", "tests", "test_list", "assertion", "canonical_solution"):
        if row.get(field):
            value = row[field]
            return "\n".join(map(str, value)) if isinstance(value, list) else str(value)
    return ""
