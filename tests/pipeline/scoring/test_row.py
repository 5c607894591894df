"""Choosing a scorer, and the order of a finished row's keys."""

from __future__ import annotations

import pytest
from trimode.core.errors import ConfigError
from trimode.pipeline.benchmarks import load_benchmark
from trimode.pipeline.scoring import check_scorer, finish_rows, score_row

REPLY = {"generation": "g", "num_generated_tokens": 3, "finish_reason": "stop", "serialized_output": []}
TIMES = {"generation_start_time": 1.0, "generation_end_time": 2.0, "generation_time": 1.0}
REPLY_ORDER = ["num_generated_tokens", "finish_reason", "serialized_output", *TIMES, "generation"]


def test_a_failed_request_is_wrong_without_asking_the_scorer() -> None:
    row = {"generation": r"\boxed{4}", "expected_answer": "4", "error": "connection lost"}
    assert score_row(load_benchmark("demo-math"), row) == {"predicted_answer": None, "symbolic_correct": False}


def test_a_benchmark_without_a_scorer_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="livecodebench-cpp has no scorer here"):
        check_scorer(load_benchmark("livecodebench-cpp"))


def test_mathematics_rows_begin_with_the_data() -> None:
    row = {**REPLY, **TIMES, "problem": "p", "expected_answer": "4", "error": None}
    row |= {"symbolic_correct": True, "predicted_answer": "4", "interleaved_eval_single_time_s": 0.1}
    (finished,) = finish_rows(load_benchmark("gsm8k"), [row])
    verdict = ["predicted_answer", "symbolic_correct", "interleaved_eval_single_time_s"]
    assert list(finished) == ["problem", "expected_answer", *REPLY_ORDER, *verdict, "error"]
    assert finished == row


@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        ("mmlu", ["predicted_answer", "symbolic_correct"]),
        ("human-eval", ["completion", "is_correct", "is_correct-plus"]),
        ("livecodebench", ["completion", "question_id", "code_list", "graded_list"]),
    ],
)
def test_other_rows_begin_with_the_reply(name: str, verdict: list[str]) -> None:
    row = {**dict.fromkeys(reversed(verdict)), "task_id": 1, **TIMES, **REPLY}
    (finished,) = finish_rows(load_benchmark(name), [row])
    assert list(finished) == [*REPLY_ORDER, "task_id", *verdict]
