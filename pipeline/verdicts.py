"""What the verdict fields of one scored row are worth in its benchmark's metric: points scored and possible.

Knows no files, no percentages and no scorers; it only reads the fields that scoring wrote.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from trimode.pipeline.benchmarks import Benchmark
from trimode.workers.protocol import ConfigError

Row = Mapping[str, object]


class Points(NamedTuple):
    """One row's share in a metric; the metric is the mean over columns of sum(scored) / sum(possible)."""

    scored: tuple[float, ...]
    possible: tuple[float, ...]


def _flag(field: str) -> Callable[[Row], Points]:
    """A metric that is the share of rows whose `field` is true."""
    return lambda row: Points((float(bool(row.get(field))),), (1.0,))


def _graded(row: Row) -> Points:
    """LiveCodeBench: all tests of the first (only) solution pass."""
    graded = row.get("graded_list")
    passed = bool(graded[0]) if isinstance(graded, list) and graded else False
    return Points((float(passed),), (1.0,))


def _instructions(kind: str) -> Callable[[Row], Points]:
    """IFEval, by instruction: followed and asked."""

    def points(row: Row) -> Points:
        verdict = row.get(f"{kind}_eval")
        followed = verdict.get("follow_instruction_list", []) if isinstance(verdict, Mapping) else []
        asked = row.get("instruction_id_list")
        total = len(asked) if isinstance(asked, list) else len(followed)
        return Points((float(sum(map(bool, followed))),), (float(total),))

    return points


def _prompt(kind: str) -> Callable[[Row], Points]:
    """IFEval, by prompt: every instruction followed."""

    def points(row: Row) -> Points:
        verdict = row.get(f"{kind}_eval")
        passed = isinstance(verdict, Mapping) and bool(verdict.get("follow_all_instructions"))
        return Points((float(passed),), (1.0,))

    return points


def _average_score(row: Row) -> Points:
    """IFEval's mean of four: prompt and instruction accuracy, strict and loose."""
    parts = [rule(kind)(row) for kind in ("strict", "loose") for rule in (_prompt, _instructions)]
    return Points(tuple(p.scored[0] for p in parts), tuple(p.possible[0] for p in parts))


_METRICS: dict[str, Callable[[Row], Points]] = {
    "symbolic_correct": _flag("symbolic_correct"),
    "passing_base_tests": _flag("is_correct"),
    "passing_plus_tests": _flag("is_correct-plus"),
    "accuracy": _graded,
    "prompt_strict_accuracy": _prompt("strict"),
    "prompt_loose_accuracy": _prompt("loose"),
    "instruction_strict_accuracy": _instructions("strict"),
    "instruction_loose_accuracy": _instructions("loose"),
    "average_score": _average_score,
}

_VERDICT_FIELDS = ("symbolic_correct", "is_correct", "graded_list", "strict_eval")


def row_points(benchmark: Benchmark, row: Row) -> Points:
    """Points of `row` in the benchmark's metric. Raises ConfigError for a metric without a rule here."""
    rule = _METRICS.get(benchmark.metric)
    if rule is None:
        raise ConfigError(f"metric of {benchmark.name}: got {benchmark.metric!r}; valid: {', '.join(_METRICS)}")
    return rule(row)


def is_right(benchmark: Benchmark, row: Row) -> bool:
    """Whether the row counts as solved; for ifeval: whether its whole prompt was followed strictly."""
    if benchmark.scorer == "ifeval":
        return _prompt("strict")(row).scored[0] == 1.0
    return row_points(benchmark, row).scored[0] == 1.0


def is_scored(row: Row) -> bool:
    """Whether any scorer has put its verdict on the row."""
    return any(field in row for field in _VERDICT_FIELDS)


def predicted(row: Row) -> str:
    """What was read off the answer, as text: the extracted answer, the code, or which instructions were followed."""
    if row.get("predicted_answer") is not None:
        return str(row["predicted_answer"])
    verdict = row.get("strict_eval")
    if isinstance(verdict, Mapping):
        asked = verdict.get("instruction_id_list") or row.get("instruction_id_list") or []
        followed = verdict.get("follow_instruction_list") or []
        if isinstance(asked, list) and isinstance(followed, list):
            return ", ".join(f"{'✓' if ok else '✗'} {name}" for name, ok in zip(asked, followed, strict=False))
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
