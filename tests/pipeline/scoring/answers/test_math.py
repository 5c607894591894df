"""Extraction and comparison of mathematical answers."""

from __future__ import annotations

import itertools
import time

import pytest
from math_verify import grader, parser
from math_verify.errors import TimeoutException
from trimode.pipeline.benchmarks import load_benchmark
from trimode.pipeline.scoring.answers import math
from trimode.pipeline.scoring.answers.extract import extract_answer
from trimode.pipeline.scoring.answers.math import math_equal, score
from trimode.tests.goldens import rows


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{4}", "4"),
        (r"\boxed{1} then \boxed{2}", "2"),
        (r"\boxed{\frac{1}{2}} units", r"\frac{1}{2}"),
        (r"\boxed{}", ""),
        (r"\boxed{3} and \boxed{4", None),
        (r"\boxed {5}", None),
        (r"\fbox{5}", None),
        ("no box", None),
    ],
)
def test_only_the_last_closed_box_counts(text: str, answer: str | None) -> None:
    assert extract_answer(text) == answer


def test_by_regex_the_phrase_must_stand_in_the_last_line() -> None:
    assert extract_answer("The final answer is 5", extract_from_boxed=False) == "5"
    assert extract_answer("The final answer is 5\nbye", extract_from_boxed=False) is None


def test_relaxed_takes_the_regex_when_the_box_is_empty() -> None:
    assert extract_answer(r"\boxed{} The final answer is 6", relaxed=True) == "6"


@pytest.mark.parametrize(
    ("expected", "predicted", "equal"),
    [
        (r"\frac{1}{2}", "0.5", True),
        ("1/3", "0.333333", True),
        ("1/3", "0.333", False),
        ("5", "05", False),
        ("1 000", "1000", True),
        (r"50\%", "50", True),
        ("B", "Option B", True),
        ("B", "b", False),
        ("(1,2)", "1,2", True),
        ("x=5", "5", True),
        (72, "72", True),
        ("72", None, False),
    ],
)
def test_equality(expected: object, predicted: object, equal: bool) -> None:
    assert math_equal(expected, predicted) is equal


def test_a_row_without_an_answer_is_wrong() -> None:
    row = {"expected_answer": "4", "generation": None}
    assert score(load_benchmark("demo-math"), row, None) == {"predicted_answer": None, "symbolic_correct": False}


def test_extraction_agrees_with_nemo_skills() -> None:
    for row in rows("math_extract.jsonl"):
        assert extract_answer(row["generation"], **row["kwargs"]) == row["predicted_answer"], row["id"]


def test_equality_agrees_with_nemo_skills() -> None:
    for row in rows("math_equal.jsonl"):
        assert math_equal(row["expected_answer"], row["predicted_answer"]) == row["math_equal"], row


@pytest.mark.slow
def test_limits_count_cpu_time_and_not_the_wall_clocks() -> None:
    assert grader.timeout is parser.timeout is math.cpu_timeout
    math.cpu_timeout(1)(lambda: time.sleep(1.2))()
    with pytest.raises(TimeoutException):
        math.cpu_timeout(1)(lambda: all(True for _ in itertools.count()))()
