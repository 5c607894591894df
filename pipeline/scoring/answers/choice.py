"""Multiple choice: finds the letter that a reply chooses and compares it with the expected one.

Only letters count. The text of an option is never compared.
"""

from __future__ import annotations

import re
from pathlib import Path

from trimode.core.protocol import Row
from trimode.pipeline.benchmarks import Benchmark
from trimode.pipeline.scoring.answers.extract import DEFAULT_ANSWER_REGEX, extract_answer
from trimode.pipeline.scoring.scorer import answer_text

VERDICT_KEYS = ("predicted_answer", "symbolic_correct")
ROW_LIMIT_S = 30.0

LONE_CAPITAL = re.compile(r"\b[A-Z]\b")
ANSWER_LINE = re.compile(r"answer[*_]{0,2}\s*:[\s*_]{0,2}\s*([A-Z])(?![a-zA-Z0-9])", re.IGNORECASE)


def choice_letter(
    text: str,
    extract_from_boxed: bool = True,
    extract_regex: str = DEFAULT_ANSWER_REGEX,
    relaxed: bool = True,
) -> str | None:
    """Returns the chosen letter: that of the extracted answer, else that of the last `Answer: X`, else None."""
    extracted = extract_answer(text, extract_from_boxed, extract_regex, relaxed)
    if extracted is not None and len(extracted) == 1:
        return extracted
    capitals = LONE_CAPITAL.findall(extracted or "")
    if capitals:
        return str(capitals[-1])
    lines = ANSWER_LINE.findall(text)
    return str(lines[-1]).upper() if lines else None


def score(benchmark: Benchmark, row: Row, data_dir: Path | None) -> Row:  # noqa: ARG001 - every scorer's signature
    """Returns `predicted_answer` and `symbolic_correct`. A row's own extraction settings win over the defaults."""
    text = answer_text(benchmark, row)
    if text is None:
        return no_answer(benchmark, row)
    predicted = choice_letter(
        text,
        row.get("extract_from_boxed", True),
        row.get("extract_regex", DEFAULT_ANSWER_REGEX),
        row.get("relaxed", True),
    )
    return {"predicted_answer": predicted, "symbolic_correct": predicted == row["expected_answer"]}


def no_answer(benchmark: Benchmark, row: Row) -> Row:  # noqa: ARG001 - every scorer's signature
    """Returns the verdict of no prediction: wrong."""
    return {"predicted_answer": None, "symbolic_correct": False}


def check(benchmark: Benchmark, data_dir: Path | None) -> None:
    """Passes always: the packages are part of the base installation."""
