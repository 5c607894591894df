"""Runs one HumanEval+ or MBPP+ answer on its inputs in the sandbox: a JSON task on stdin, a JSON verdict on stdout.

Uses the standard library and numpy only. Follows the rules of evalplus at the revision NeMo-Skills 0.7.0
pins (c91370f), its quirks included: a tolerance once switched on by a float stays on for the problem's later inputs.
"""

from __future__ import annotations

import base64
import builtins
import contextlib
import faulthandler
import importlib
import io
import json
import math
import os
import pickle
import signal
import sys
import time
import zlib
from collections.abc import Iterator
from types import FrameType
from typing import Any, NoReturn

import numpy as np

FLOAT_TOLERANCE = 1e-6
RELATIVE_TOLERANCE = 1e-07
SET_TASKS = (
    *("similar_elements", "find_char_long", "common_in_nested_lists", "extract_singly", "larg_nnum"),
    *("intersection_array", "find_dissimilar", "Diff"),
)
"""MBPP entry points whose results are compared as sets."""


class TooSlowError(Exception):
    """One input exceeded its time limit."""


class Unreadable(io.StringIO):
    """Standard input that raises an error when it is read."""

    def _refuse(self, *_: object) -> NoReturn:
        raise OSError

    read = readline = readlines = _refuse

    def readable(self) -> bool:
        """False always."""
        return False


@contextlib.contextmanager
def swallowed() -> Iterator[None]:
    """Discards output inside the block, and makes reading stdin an error."""
    stream = Unreadable()
    with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
        stdin, sys.stdin = sys.stdin, stream
        try:
            yield
        finally:
            sys.stdin = stdin


def ring(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - a signal handler's signature
    """Handles SIGALRM."""
    raise TooSlowError


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raises TooSlowError inside the block after `seconds`."""
    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def disable_harm(disabled: dict[str, list[str]], blocked: list[str]) -> None:
    """Disables what evalplus disables: an answer that uses it fails there and must fail here."""
    faulthandler.disable()
    os.environ["OMP_NUM_THREADS"] = "1"
    for module, names in disabled.items():
        for name in names:
            setattr(importlib.import_module(module), name, None)
    builtins.open = None  # type: ignore[assignment]
    builtins.exit = None  # type: ignore[assignment]
    sys.modules.update(dict.fromkeys(blocked))  # type: ignore[arg-type]


def is_floats(value: object) -> bool:
    """True for a float, a list or tuple of floats only (an empty one too), and an array of floats."""
    if isinstance(value, list | tuple):
        return all(isinstance(item, float) for item in value)
    return isinstance(value, float) or (isinstance(value, np.ndarray) and value.dtype in (np.float64, np.float32))


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


def run_all(task: dict[str, Any], part: tuple[list[Any], list[Any], list[float]]) -> None:
    """Returns if the answer is right on every input. Raises AssertionError or the answer's own error otherwise."""
    inputs, outputs, seconds = part
    scope: dict[str, Any] = {}
    with swallowed():
        exec(task["code"], scope)  # noqa: S102 - running the answer is this script's purpose
        function = scope[task["entry_point"]]
    tolerance = task["atol"]
    for arguments, wanted, reference_s in zip(inputs, outputs, seconds, strict=True):
        with time_limit(limit_of(task, reference_s)), swallowed():
            found = function(*arguments)
        exact = matches({**task, "atol": tolerance}, arguments, found, wanted)
        if tolerance == 0 and is_floats(wanted):
            tolerance = FLOAT_TOLERANCE
        if not exact and not (tolerance != 0 and np.allclose(found, wanted, rtol=RELATIVE_TOLERANCE, atol=tolerance)):
            raise AssertionError("wrong result")


def limit_of(task: dict[str, Any], reference_s: float) -> float:
    """Returns the seconds for one input."""
    return float(max(task["min_time_s"], task["time_factor"] * reference_s))


def passes(task: dict[str, Any], part: tuple[list[Any], list[Any], list[float]]) -> bool:
    """True if the answer is right on every input, run in a child process within the problem's time."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        try:
            disable_harm(task["disabled"], task["blocked"])
            run_all(task, part)
            os.write(writer, task["nonce"].encode())
        finally:
            os._exit(0)
    os.close(writer)
    deadline = time.monotonic() + min(task["cap_s"], sum(limit_of(task, item) for item in part[2])) + 2
    ended = 0
    while ended == 0 and time.monotonic() < deadline:
        ended = os.waitpid(pid, os.WNOHANG)[0]
        time.sleep(0.002)
    if ended == 0:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    os.set_blocking(reader, False)
    with contextlib.suppress(BlockingIOError), os.fdopen(reader, "rb") as pipe:
        return ended != 0 and (pipe.read() or b"").decode(errors="replace") == task["nonce"]
    return False


def main() -> None:
    """Judges the task on stdin, base before plus, and prints `{"nonce": ..., "base": ..., "plus": ...}`."""
    task = json.load(sys.stdin)
    oracle = pickle.loads(zlib.decompress(base64.b64decode(task.pop("oracle"))))  # noqa: S301 - made by this project
    base = passes(task, oracle["base"])
    plus = base and passes(task, oracle["plus"])
    print(json.dumps({"nonce": task["nonce"], "base": base, "plus": plus}))


if __name__ == "__main__":
    main()
