"""Raw rows of gsm8k, math-500 and AIME to NeMo-Skills' fields (problem, expected_answer, reference_solution, ...).

Knows no files.
"""

from __future__ import annotations

import re

from trimode.core.protocol import Row


def gsm8k(raw: Row) -> Row:
    """question/answer to a row: the number after #### is the answer; the calculator marks <<...>> are taken out."""
    solution, _, number = str(raw["answer"]).partition("####")
    answer = float(number.replace(",", ""))
    return {
        "problem": raw["question"],
        "expected_answer": int(answer) if answer == int(answer) else answer,
        "reference_solution": re.sub(r"<<.*?>>", "", solution),
    }


def math_500(raw: Row) -> Row:
    """Renames answer and solution, which move to the end; everything else stays."""
    kept = {key: value for key, value in raw.items() if key not in ("answer", "solution")}
    return {**kept, "expected_answer": raw["answer"], "reference_solution": raw["solution"]}


def aime(raw: Row) -> Row:
    """AIME files come prepared."""
    return raw
