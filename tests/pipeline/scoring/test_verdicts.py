"""Points of a row per metric, checked against the metrics of real NeMo-Skills runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from trimode.core.errors import ConfigError
from trimode.pipeline.analysis.statistics import ratio
from trimode.pipeline.benchmarks import load_benchmark
from trimode.pipeline.scoring.verdicts import expected, is_right, is_scored, predicted, row_points
from trimode.tests.goldens import FULL, HEADS, needs_full, rows, value


def points_of(benchmark_name: str, pattern: str, metric: str, folder: Path = HEADS) -> float:
    """The metric of recorded rows in percent, from the points of each row."""
    benchmark = replace(load_benchmark(benchmark_name), metric=metric)
    names = sorted(str(path.relative_to(folder)) for path in folder.glob(pattern))
    points = [row_points(benchmark, row) for name in names for row in rows(name, folder)]
    return 100 * ratio(np.array([p.scored for p in points]), np.array([p.possible for p in points]))


MATH = "math_eval/math-500/output-rs*.jsonl"
CODE, IF = "code_eval/verdicts-*.jsonl", "if_eval/verdicts-*.jsonl"


@pytest.mark.parametrize(
    ("benchmark", "pattern", "metrics", "aggregate", "metric"),
    [
        ("math-500", MATH, "math_eval/metrics_max_samples_50.json", "pass@1[avg-of-4]", "symbolic_correct"),
        ("human-eval", CODE, "code_eval/metrics.json", "pass@1[avg-of-2]", "passing_base_tests"),
        ("human-eval", CODE, "code_eval/metrics.json", "pass@1[avg-of-2]", "passing_plus_tests"),
        ("livecodebench", "lcb_eval/livecodebench/*.jsonl", "lcb_eval/metrics.json", "pass@1", "accuracy"),
        ("ifeval", IF, "if_eval/metrics.json", "pass@1[avg-of-3]", "average_score"),
        ("ifeval", IF, "if_eval/metrics.json", "pass@1[avg-of-3]", "instruction_loose_accuracy"),
    ],
)  # fmt: skip
def test_points_add_up_to_the_real_metrics(
    benchmark: str, pattern: str, metrics: str, aggregate: str, metric: str
) -> None:
    stated = value(metrics)[benchmark][aggregate][metric]
    assert points_of(benchmark, pattern, metric) == pytest.approx(stated, abs=1e-9)


@needs_full
@pytest.mark.parametrize(
    ("benchmark", "pattern", "metrics", "aggregate", "metric"),
    [
        ("math-500", MATH, "math_eval/metrics.json", "pass@1[avg-of-4]", "symbolic_correct"),
        ("mbpp", "e2e_runs/ev2/mbpp/output.jsonl", "e2e_runs/ev2/mbpp/metrics.json", "pass@1", "passing_plus_tests"),
    ],
)
def test_points_of_whole_runs_add_up_to_the_real_metrics(
    benchmark: str, pattern: str, metrics: str, aggregate: str, metric: str
) -> None:
    stated = value(metrics, FULL)[benchmark][aggregate][metric]
    assert points_of(benchmark, pattern, metric, FULL) == pytest.approx(stated, abs=1e-9)


def test_a_metric_that_the_scorer_lacks_is_refused() -> None:
    benchmark = replace(load_benchmark("gsm8k"), metric="passing_plus_tests")
    with pytest.raises(ConfigError, match="symbolic_correct"):
        row_points(benchmark, {"symbolic_correct": True})


@pytest.mark.parametrize(
    ("name", "metric", "row", "right"),
    [
        ("gsm8k", "symbolic_correct", {"symbolic_correct": True}, True),
        ("human-eval", "passing_base_tests", {"is_correct": True, "is_correct-plus": False}, True),
        ("human-eval", "passing_plus_tests", {"is_correct": True, "is_correct-plus": False}, False),
        ("livecodebench", "accuracy", {"graded_list": [True]}, True),
        ("ifeval", "average_score", {"strict_eval": {"follow_all_instructions": False}}, False),
        ("ifeval", "prompt_loose_accuracy", {"strict_eval": {"follow_all_instructions": True}}, True),
    ],
)
def test_right_is_what_the_metric_says(name: str, metric: str, row: dict[str, object], right: bool) -> None:
    assert is_right(replace(load_benchmark(name), metric=metric), row) is right


def test_an_instruction_prompt_counts_as_right_when_all_of_it_was_followed() -> None:
    verdict = {"follow_all_instructions": False, "follow_instruction_list": [True, False]}
    row = {"strict_eval": verdict, "loose_eval": verdict, "instruction_id_list": ["a", "b"]}
    assert not is_right(load_benchmark("ifeval"), row)
    assert predicted(row) == "✓ a, ✗ b"
    assert expected(row) == "a, b"


@pytest.mark.parametrize("row", [{}, {"graded_list": []}, {"graded_list": [None]}])
def test_a_row_without_its_verdict_is_not_scored(row: dict[str, object]) -> None:
    assert not is_scored(load_benchmark("livecodebench"), row)
