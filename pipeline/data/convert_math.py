"""Raw rows of gsm8k, math-500 and AIME to NeMo-Skills' fields (problem, expected_answer, reference_solution, ...)."""

from __future__ import annotations

import re

from trimode.core.protocol import Row


def gsm8k(raw: Row) -> Row:
    """Converts question and answer: the number after #### is the answer; calculator marks <<...>> are removed."""
    solution, _, number = str(raw["answer"]).partition("####")
    answer = float(number.replace(",", ""))
    return {
        "problem": raw["question"],
        "expected_answer": int(answer) if answer == int(answer) else answer,
        "reference_solution": re.sub(r"<<.*?>>", "", solution),
    }


def math_500(raw: Row) -> Row:
    """Renames answer and solution and moves them to the end. All other fields stay."""
    kept = {key: value for key, value in raw.items() if key not in ("answer", "solution")}
    return {**kept, "expected_answer": raw["answer"], "reference_solution": raw["solution"]}


def aime(raw: Row) -> Row:
    """Returns the row unchanged: AIME files are prepared already."""
    return raw
