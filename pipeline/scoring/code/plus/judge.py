"""Judges one HumanEval+ or MBPP+ answer: calls it on every input and compares what comes back.

Follows the rules of evalplus at the revision NeMo-Skills 0.7.0 pins (c91370f), its quirks included: a tolerance once
switched on by a float stays on for the problem's later inputs.
"""

from __future__ import annotations

import base64
import math
import pickle
import zlib
from typing import Any

from trimode.pipeline.scoring.code.plus.guest import starter
from trimode.pipeline.scoring.sandbox.answer import Answer, NoResultError, RaisedError
from trimode.pipeline.scoring.sandbox.disabled import load_numpy_for
from trimode.pipeline.scoring.sandbox.judge import Court, Verdict, preside, read_message
from trimode.pipeline.scoring.sandbox.values import HeldIterator

FLOAT_TOLERANCE = 1e-6
RELATIVE_TOLERANCE = 1e-07
SET_TASKS = (
    *("similar_elements", "find_char_long", "common_in_nested_lists", "extract_singly", "larg_nnum"),
    *("intersection_array", "find_dissimilar", "Diff"),
)
"""MBPP entry points whose results are compared as sets."""
Part = tuple[list[Any], list[Any], list[float]]
"""Inputs, expected outputs and the reference solution's seconds."""


def is_floats(value: object) -> bool:
    """True for a float, a list or tuple of floats only (an empty one too), and an array of floats."""
    if isinstance(value, list | tuple):
        return all(isinstance(item, float) for item in value)
    dtype = getattr(value, "dtype", None)
    return isinstance(value, float) or (dtype is not None and hasattr(value, "shape") and dtype in ("f4", "f8"))


def matches(task: dict[str, Any], arguments: list[Any], found: Any, wanted: Any) -> Any:  # noqa: ANN401 - of any type
    """True if a result is exactly right, by the problem's own rule where it has one."""
    exact, entry_point = found == wanted, task["entry_point"]
    if task["dataset"] == "mbpp":
        if entry_point == "are_equivalent":
            return True
        if entry_point == "sum_div":
            return exact or found == 0
        if entry_point in SET_TASKS:
            return set(found) == set(wanted)
        if entry_point in task["not_none_tasks"]:
            return found == wanted if isinstance(found, bool) else wanted == (found is not None)
    elif entry_point == "find_zero":
        value = sum(coefficient * math.pow(found, power) for power, coefficient in enumerate(arguments[0]))
        if not value <= task["atol"]:
            raise AssertionError("no zero of the polynomial")
    return exact


def is_close(found: Any, wanted: Any, tolerance: float) -> bool:  # noqa: ANN401 - of any type
    """True if numpy finds both close."""
    import numpy as np  # few problems need it, and it takes longer to load than they run

    return bool(np.allclose(found, wanted, rtol=RELATIVE_TOLERANCE, atol=tolerance))


def call(answer: Answer, task: dict[str, Any], arguments: list[Any], wanted: Any, seconds: float) -> Any:  # noqa: ANN401
    """Returns the answer's result. An iterator's items are fetched where results are compared as sets."""
    found = answer.call(task["entry_point"], arguments, seconds, wanted=wanted)
    if not isinstance(found, HeldIterator) or task["entry_point"] not in SET_TASKS:
        return found
    items = []
    while True:
        try:
            items.append(answer.call(found, [], seconds))
        except RaisedError as error:
            if error.name != "StopIteration":
                raise
            return items


def check_all(answer: Answer, task: dict[str, Any], part: Part) -> None:
    """Returns if the answer is right on every input. Raises AssertionError or another error otherwise."""
    answer.start(task["cap_s"])
    tolerance = task["atol"]
    for arguments, wanted, reference_s in zip(*part, strict=True):
        found = call(answer, task, arguments, wanted, max(task["min_time_s"], task["time_factor"] * reference_s))
        exact = matches({**task, "atol": tolerance}, arguments, found, wanted)
        if tolerance == 0 and is_floats(wanted):
            tolerance = FLOAT_TOLERANCE
        if not exact and not (tolerance != 0 and is_close(found, wanted, tolerance)):
            raise AssertionError("wrong result")


def passes(answer: Answer, task: dict[str, Any], part: Part) -> bool:
    """True if the answer is right on every input."""
    try:
        check_all(answer, task, part)
    except (NoResultError, RaisedError):
        return False
    except (Exception, MemoryError):  # noqa: BLE001 - comparing unlike things raises anything
        return False
    finally:
        answer.end()
    return True


def judge(court: Court, task: dict[str, Any]) -> Verdict:
    """Returns {"base": bool, "plus": bool}: the base inputs, and with them all inputs."""
    load_numpy_for(task["code"])
    answers = [court.answer(starter(task), task["cap_s"]) for _ in range(2)]
    task |= read_message()
    oracle = pickle.loads(zlib.decompress(base64.b64decode(task.pop("oracle"))))  # noqa: S301 - made by this project
    base = passes(answers[0], task, oracle["base"])
    return {"base": base, "plus": base and passes(answers[1], task, oracle["plus"])}


def main() -> None:
    """Judges the task on standard input."""
    preside(judge)
