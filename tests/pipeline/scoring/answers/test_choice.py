"""The letter that a reply chooses."""

from __future__ import annotations

import pytest
from trimode.pipeline.benchmarks import load_benchmark
from trimode.pipeline.scoring.answers.choice import choice_letter, score


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        (r"\boxed{C}", "C"),
        (r"\boxed{c}", "c"),
        (r"\boxed{7}", "7"),
        (r"\boxed{(B) or D}", "D"),
        (r"\boxed{none} Answer: A", "A"),
        ("Answer: B", "B"),
        ("**answer**: b", "B"),
        ("Answer: *D*", "D"),
        ("Answer: (D)", None),
        ("Answer: **D**", None),
        ("Answer: Dog", None),
        ("D", None),
        (r"Answer: A, so \boxed{B}", "B"),
    ],
)
def test_letter(text: str, letter: str | None) -> None:
    assert choice_letter(text) == letter


def test_settings_of_the_row_win() -> None:
    row = {"generation": r"\boxed{A} Choice: B", "expected_answer": "B"}
    row |= {"extract_from_boxed": False, "extract_regex": "Choice: (.)", "relaxed": False}
    assert score(load_benchmark("demo-mcq"), row, None) == {"predicted_answer": "B", "symbolic_correct": True}


def test_no_answer_is_wrong() -> None:
    row = {"generation": None, "expected_answer": "B"}
    assert score(load_benchmark("demo-mcq"), row, None) == {"predicted_answer": None, "symbolic_correct": False}
