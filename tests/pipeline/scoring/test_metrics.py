"""Aggregations over seeds: small cases by hand, and metrics.json of real NeMo-Skills runs to the last digit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from trimode.pipeline.benchmarks import load_benchmark
from trimode.pipeline.scoring.metrics import compute_metrics, majority_at_k, mean_of_first, pass_at_k
from trimode.tests.goldens import FULL, HEADS, needs_full, rows, value


def answer(right: bool, text: str | None = "4", **more: Any) -> dict[str, Any]:
    return {"symbolic_correct": right, "predicted_answer": text, "num_generated_tokens": 10, **more}


@pytest.mark.parametrize(("k", "chance"), [(1, 0.5), (2, 5 / 6), (3, 1.0), (4, 1.0)])
def test_pass_at_k_counts_all_attempts(k: int, chance: float) -> None:
    assert pass_at_k([1, 1, 0, 0], k) == pytest.approx(chance)


def test_pass_at_k_of_counts_is_the_best_of_the_first() -> None:
    assert [pass_at_k([1, 3, 0], k) for k in (1, 2, 3)] == [1, 3, 3]


def test_mean_of_first() -> None:
    assert mean_of_first([1, 0, 1], 2) == 0.5


@pytest.mark.parametrize(
    ("answers", "scores", "score"),
    [(["a", "a", "b"], [1, 1, 0], 1), (["a", "b", None], [1, 0, 0], 0.5), ([None, None, None], [0, 0, 0], 0)],
)
def test_majority(answers: list[str | None], scores: list[int], score: float) -> None:
    assert majority_at_k(answers, scores, 3) == score


def test_one_seed_has_pass_at_1_only() -> None:
    metrics = compute_metrics(load_benchmark("gsm8k"), [[answer(True), answer(False, None)]])
    expected = {"num_entries": 2, "avg_tokens": 10, "symbolic_correct": 50.0, "no_answer": 50.0}
    assert metrics == {"gsm8k": {"pass@1": expected}}


def test_subsets_get_entries_of_their_own() -> None:
    seed = [answer(True, subset_for_metrics="law"), answer(False, subset_for_metrics="art"), answer(True)]
    metrics = compute_metrics(load_benchmark("mmlu"), [seed])
    assert {name: table["pass@1"]["num_entries"] for name, table in metrics.items()} == {
        "mmlu": 3,
        "mmlu-law": 1,
        "mmlu-art": 1,
    }


def test_long_replies_count_as_wrong_when_asked() -> None:
    metrics = compute_metrics(load_benchmark("gsm8k"), [[answer(True), answer(True)]], max_seq_len=9)
    assert metrics["gsm8k"]["pass@1"]["symbolic_correct"] == 0.0


def test_function_tests_have_their_metric() -> None:
    metrics = compute_metrics(load_benchmark("demo-code"), [[{"is_correct": True}, {"is_correct": False}]])
    assert metrics == {"demo-code": {"pass@1": {"num_entries": 2, "passing_base_tests": 50.0}}}


def test_seeds_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must have equally many rows; got \[1, 2\]"):
        compute_metrics(load_benchmark("gsm8k"), [[answer(True)], [answer(True)] * 2])


def test_a_benchmark_without_scorer_is_refused() -> None:
    with pytest.raises(ValueError, match="no metrics for the scorer of livecodebench-cpp: got 'none'; valid: math"):
        compute_metrics(load_benchmark("livecodebench-cpp"), [[{}]])


def agrees(name: str, seeds: tuple[str, ...], metrics: str, folder: Path = HEADS, **options: int) -> bool:
    """True if our metrics.json of the recorded rows has the recorded text."""
    ours = compute_metrics(load_benchmark(name), [rows(seed, folder) for seed in seeds], **options)
    return json.dumps(ours) == json.dumps(value(metrics, folder))


def seeds_of(pattern: str, count: int) -> tuple[str, ...]:
    return tuple(pattern.format(seed) for seed in range(count))


MATH = seeds_of("math_eval/math-500/output-rs{}.jsonl", 4)
HEAD_RUNS = [
    ("math-500", MATH, "math_eval/metrics_max_samples_50.json"),
    ("human-eval", seeds_of("code_eval/verdicts-rs{}.jsonl", 2), "code_eval/metrics.json"),
    ("livecodebench", ("lcb_eval/livecodebench/output.jsonl",), "lcb_eval/metrics.json"),
    ("ifeval", seeds_of("if_eval/verdicts-rs{}.jsonl", 3), "if_eval/metrics.json"),
]
FULL_RUNS = [
    ("math-500", MATH, "math_eval/metrics.json"),
    ("math-500", ("math_eval_greedy/math-500/output.jsonl",), "math_eval_greedy/metrics.json"),
    ("human-eval", ("code_eval/human-eval/output.jsonl",), "code_eval/metrics_human-eval.json"),
    ("livecodebench", ("lcb_eval/livecodebench/output.jsonl",), "lcb_eval/metrics.json"),
    ("ifeval", seeds_of("if_eval/ifeval/output-rs{}.jsonl", 3), "if_eval/metrics.json"),
    ("human-eval", seeds_of("e2e_runs/ev2/human-eval/output-rs{}.jsonl", 2), "e2e_runs/ev2/human-eval/metrics.json"),
    ("mbpp", ("e2e_runs/ev2/mbpp/output.jsonl",), "e2e_runs/ev2/mbpp/metrics.json"),
]


@pytest.mark.parametrize(("name", "seeds", "metrics"), HEAD_RUNS, ids=[run[2] for run in HEAD_RUNS])
def test_agrees_with_nemo_skills_digit_by_digit(name: str, seeds: tuple[str, ...], metrics: str) -> None:
    assert agrees(name, seeds, metrics)


@needs_full
@pytest.mark.parametrize(("name", "seeds", "metrics"), FULL_RUNS, ids=[run[2] for run in FULL_RUNS])
def test_agrees_with_nemo_skills_on_whole_runs(name: str, seeds: tuple[str, ...], metrics: str) -> None:
    assert agrees(name, seeds, metrics, FULL)


@needs_full
def test_agrees_with_nemo_skills_on_max_samples_and_max_seq_len() -> None:
    assert agrees("math-500", MATH, "math_eval/metrics_max_samples_50.json", FULL, max_samples=50)
    assert agrees("math-500", MATH, "math_eval/metrics_max_seq_len_18.json", FULL, max_seq_len=18)
