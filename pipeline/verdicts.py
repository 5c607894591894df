"""What the verdict fields of one scored row are worth in its benchmark's metric: points scored and possible.

Knows no files, no percentages and no scorers; it only reads the fields that scoring wrote.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from trimode.pipeline.benchmarks import Benchmark
from trimode.pipeline.metrics import FAMILIES, INSTRUCTIONS, Row
from trimode.workers.protocol import ConfigError


class Points(NamedTuple):
    """One row's share in a metric; the metric is the mean over columns of sum(scored) / sum(possible)."""

    scored: tuple[float, ...]
    possible: tuple[float, ...]


def _prompt(kind: str) -> Callable[[Row], Points]:
    """IFEval by prompt: every instruction followed."""
    return lambda row: Points((float(row[f"{kind}_eval"]["follow_all_instructions"]),), (1.0,))


def _instructions(kind: str) -> Callable[[Row], Points]:
    """IFEval by instruction: followed and asked."""
    return lambda row: Points(
        (float(sum(row[f"{kind}_eval"]["follow_instruction_list"])),), (float(len(row["instruction_id_list"])),)
    )


def _average_score(row: Row) -> Points:
    """IFEval's mean of four: prompt and instruction accuracy, strict and loose."""
    parts = [rule(kind)(row) for kind in ("strict", "loose") for rule in (_prompt, _instructions)]
    return Points(tuple(p.scored[0] for p in parts), tuple(p.possible[0] for p in parts))


_INSTRUCTION_METRICS: dict[str, Callable[[Row], Points]] = {
    "prompt_strict_accuracy": _prompt("strict"),
    "prompt_loose_accuracy": _prompt("loose"),
    "instruction_strict_accuracy": _instructions("strict"),
    "instruction_loose_accuracy": _instructions("loose"),
    "average_score": _average_score,
}


def row_points(benchmark: Benchmark, row: Row) -> Points:
    """Points of `row` in the benchmark's metric. Raises ConfigError for a metric its scorer does not have."""
    if benchmark.scorer == INSTRUCTIONS and benchmark.metric in _INSTRUCTION_METRICS:
        return _INSTRUCTION_METRICS[benchmark.metric](row)
    measures = FAMILIES[benchmark.scorer].measures if benchmark.scorer in FAMILIES else {}
    if benchmark.metric not in measures:
        valid = ", ".join(_INSTRUCTION_METRICS if benchmark.scorer == INSTRUCTIONS else measures) or "none"
        raise ConfigError(f"metric of {benchmark.name}: got {benchmark.metric!r}; valid for its scorer: {valid}")
    return Points((float(measures[benchmark.metric](row)),), (1.0,))


def is_right(benchmark: Benchmark, row: Row) -> bool:
    """True if a scored row is right by the benchmark's metric; for ifeval, if its whole prompt was followed strictly.

    The only rule of the project for this. Raises ConfigError for a metric its scorer does not have.
    """
    if benchmark.scorer == INSTRUCTIONS:
        return bool(row["strict_eval"]["follow_all_instructions"])
    return row_points(benchmark, row).scored[0] == 1.0


def is_scored(benchmark: Benchmark, row: Row) -> bool:
    """Whether the row carries the verdict that the benchmark's metric reads."""
    try:
        row_points(benchmark, row)
    except (KeyError, TypeError, IndexError):
        return False
    return True


def predicted(row: Row) -> str:
    """What was read off the answer, as text: the extracted answer, the code, or which instructions were followed."""
    if row.get("predicted_answer") is not None:
        return str(row["predicted_answer"])
    if "strict_eval" in row:
        followed = zip(row["instruction_id_list"], row["strict_eval"]["follow_instruction_list"], strict=False)
        return ", ".join(f"{'✓' if ok else '✗'} {name}" for name, ok in followed)
    return str(row.get("completion") or "")


def expected(row: Row) -> str:
    """What the row asks for, as text: the expected answer, the instructions, or the tests."""
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
