"""Mathematics: compares the final answer of a reply with the expected one as NeMo-Skills 0.7.0 does.

The order of the comparison steps is here. Parsing and symbolic equality come from math-verify and
latex2sympy2_extended. math-verify limits its time with signals, so `math_equal` works in a main thread only. Its limits
count CPU time here and not the wall clock's, so that no verdict depends on the machine's load.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from latex2sympy2_extended import NormalizationConfig, normalize_latex
from math_verify import LatexExtractionConfig, StringExtractionConfig, grader, parse, parser, verify
from math_verify.errors import TimeoutException
from trimode.core.protocol import Row
from trimode.pipeline.benchmarks import Benchmark
from trimode.pipeline.scoring.answers.extract import extract_answer
from trimode.pipeline.scoring.scorer import answer_text

VERDICT_KEYS = ("predicted_answer", "symbolic_correct", "interleaved_eval_single_time_s")
ROW_LIMIT_S = 120.0

CHOICES = tuple("ABCDEFGHIJ")
PERCENTAGE = re.compile(r"(\d+\.?\d*)\\?%")
WORDS_OR_DIGITS = re.compile(r"[a-zA-Z ,]+|[0-9 ]+")
LATEX_ENVIRONMENT = re.compile(r"\$.*\$|\\\(.*\\\)|\\\[.*\\\]|\\boxed\{", re.DOTALL)
NUMERIC_PRECISION = 15
"""Significant digits to which numbers are compared."""
VERIFY_TIMEOUT_S = 10
"""CPU seconds for one comparison, as NeMo-Skills sets it."""
PARSE_TIMEOUT_S = 30
"""CPU seconds for one parse. The first one loads the grammar, which takes longer than math-verify's own 5."""


def cpu_timeout(timeout_seconds: int) -> Callable[[Callable[..., object]], Callable[..., object]]:
    """Returns a decorator that raises TimeoutException after so many CPU seconds. It stands in for math-verify's."""

    def ring(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - a signal handler's signature
        raise TimeoutException(f"took longer than {timeout_seconds} s of CPU time")

    def decorator(function: Callable[..., object]) -> Callable[..., object]:
        def limited(*arguments: object, **keywords: object) -> object:
            before = signal.signal(signal.SIGPROF, ring)
            signal.setitimer(signal.ITIMER_PROF, timeout_seconds)
            try:
                return function(*arguments, **keywords)
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
                signal.signal(signal.SIGPROF, before)

        return limited

    return decorator


for _module in (grader, parser):
    _module.timeout = cpu_timeout


def without_decoration(answer: str) -> str:
    """Returns `answer` without trailing full stops and backslashes. A plain number also loses its percent sign."""
    percentage = PERCENTAGE.fullmatch(answer)
    return (percentage[1] if percentage else answer).rstrip(".\\")


def same_choice(expected: str, predicted: str) -> bool:
    """True if both name the same option. `expected` is one letter, A to J."""
    letters = [StringExtractionConfig(strings=CHOICES)]
    gold, answer = (parse(text, letters, parsing_timeout=PARSE_TIMEOUT_S) for text in (expected, predicted))
    return bool(verify(gold, answer))


def in_latex(answer: str) -> str:
    """Returns `answer` inside a LaTeX environment, which the parser needs."""
    return answer if LATEX_ENVIRONMENT.search(answer) else f"${answer}$"


def math_equal(expected: object, predicted: object) -> bool:
    """True if `predicted` equals `expected`. Not symmetric; None is never equal. Main thread only."""
    if predicted is None:
        return False
    gold, answer = str(expected), str(predicted)
    if gold.strip() in CHOICES and same_choice(gold, answer):
        return True
    gold, answer = without_decoration(gold), without_decoration(answer)
    normal_gold = normalize_latex(gold, NormalizationConfig)
    normal_answer = normalize_latex(answer, NormalizationConfig)
    identical = normal_gold.replace(" ", "") == normal_answer.replace(" ", "")
    if identical or (WORDS_OR_DIGITS.fullmatch(normal_gold) and WORDS_OR_DIGITS.fullmatch(normal_answer)):
        return bool(identical)
    extraction = [LatexExtractionConfig()]
    return bool(
        verify(
            parse(in_latex(gold), extraction, parsing_timeout=PARSE_TIMEOUT_S),
            parse(in_latex(answer), extraction, parsing_timeout=PARSE_TIMEOUT_S),
            numeric_precision=NUMERIC_PRECISION,
            timeout_seconds=VERIFY_TIMEOUT_S,
        )
    )


def score(benchmark: Benchmark, row: Row, data_dir: Path | None) -> Row:  # noqa: ARG001 - every scorer's signature
    """Returns `predicted_answer` and `symbolic_correct` of one row with `expected_answer`."""
    text = answer_text(benchmark, row)
    predicted = None if text is None else extract_answer(text)
    return {"predicted_answer": predicted, "symbolic_correct": math_equal(row["expected_answer"], predicted)}


def no_answer(benchmark: Benchmark, row: Row) -> Row:  # noqa: ARG001 - every scorer's signature
    """Returns the verdict of no prediction: wrong."""
    return {"predicted_answer": None, "symbolic_correct": False}


def check(benchmark: Benchmark, data_dir: Path | None) -> None:
    """Passes always: the packages are part of the base installation."""
