"""Judges one LiveCodeBench answer: calls it on every test and compares what comes back as the public harness does."""

from __future__ import annotations

import json
import sys
from decimal import Decimal, InvalidOperation
from typing import Any

from trimode.pipeline.scoring.code.livecodebench_guest import INT_DIGITS, PROGRAM, starter
from trimode.pipeline.scoring.sandbox.answer import Answer, NoResultError, RaisedError
from trimode.pipeline.scoring.sandbox.disabled import load_numpy_for
from trimode.pipeline.scoring.sandbox.judge import Court, Verdict, preside, read_message


def same_output(found: str, wanted: str) -> bool:
    """True if each line is equal after stripping, or equal token by token as decimal numbers."""
    found_lines, wanted_lines = ([line.strip() for line in text.strip().split("\n")] for text in (found, wanted))
    if len(found_lines) != len(wanted_lines):
        return False
    return all(a == b or same_numbers(a, b) for a, b in zip(found_lines, wanted_lines, strict=True))


def same_numbers(found: str, wanted: str) -> bool:
    """True if both lines hold the same decimal numbers."""
    try:
        return [Decimal(token) for token in found.split()] == [Decimal(token) for token in wanted.split()]
    except InvalidOperation:
        return False


def passes_stdin(answer: Answer, tests: dict[str, Any], cpu_s: float) -> bool:
    """True if a whole program is right on every input. Stops at the first failure."""
    for text, wanted in zip(tests["inputs"], tests["outputs"], strict=False):
        found = answer.call(PROGRAM, [text], cpu_s)
        if not isinstance(found, str) or not same_output(found, wanted):
            return False
    return True


def passes_calls(answer: Answer, tests: dict[str, Any], fn_name: str, cpu_s: float) -> bool:
    """True if the answer's method is right on every input (one JSON argument per line). Stops at the first failure."""
    inputs = [[json.loads(line) for line in text.split("\n")] for text in tests["inputs"]]
    outputs = [json.loads(text) for text in tests["outputs"]]
    for arguments, wanted in zip(inputs, outputs, strict=False):
        result = answer.call(fn_name, arguments, cpu_s)
        same = (list(result) if isinstance(result, tuple) else result) == wanted
        if not same:
            return False
    return True


def judge(court: Court, task: dict[str, Any]) -> Verdict:
    """Returns {"passed": bool}."""
    code, fn_name, cpu_s = task["code"], task["fn_name"], task["timeout"]
    load_numpy_for(code)
    answer = court.answer(starter(code, fn_name), task["total_cpu_s"])
    sys.set_int_max_str_digits(INT_DIGITS)
    tests = read_message()
    try:
        answer.start(cpu_s)
        passed = passes_stdin(answer, tests, cpu_s) if fn_name is None else passes_calls(answer, tests, fn_name, cpu_s)
    except (NoResultError, RaisedError):
        passed = False
    except Exception:  # noqa: BLE001 - comparing unlike things raises anything
        passed = False
    return {"passed": passed}


def main() -> None:
    """Judges the task on standard input."""
    preside(judge)
