"""Runs one LiveCodeBench answer against its tests in the sandbox: a JSON task on stdin, a JSON verdict on stdout.

Uses the standard library only. Follows the rules of the harness NeMo-Skills 0.7.0 uses, its quirks
included: stdin answers run inside a function with `sys.stdin` replaced, so that `sys.stdin.buffer`, `open(0)`,
module-level `global` and `class Solution` fail there.
"""

from __future__ import annotations

import ast
import importlib
import io
import json
import os
import signal
import sys
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from types import FrameType, ModuleType
from typing import Any
from unittest import mock

STAR_MODULES = (
    *("string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math", "random", "statistics"),
    *("itertools", "functools", "operator", "io", "sys", "json", "builtins", "typing"),
)
"""Modules whose names an answer can use without an import. The later module wins."""
NO_NAME_MODULES = ("builtins", "typing")
"""Those of them that are not available under their own name."""
RECURSION_LIMIT = 50_000
INT_DIGITS = 50_000


class TooSlowError(Exception):
    """One test exceeded its time limit."""


def prelude() -> str:
    """Returns the imports that are put in front of every answer."""
    stars = [f"from {name} import *" for name in STAR_MODULES]
    names = [f"import {name}" for name in STAR_MODULES if name not in NO_NAME_MODULES]
    return "\n".join([*stars, *names, f"sys.setrecursionlimit({RECURSION_LIMIT})\n"])


def disable_harm(disabled: dict[str, list[str]], blocked: list[str]) -> None:
    """Disables what the original harness disables: an answer that uses it fails there and must fail here."""
    sys.set_int_max_str_digits(INT_DIGITS)
    os.environ["OMP_NUM_THREADS"] = "1"
    for module, names in disabled.items():
        for name in names:
            setattr(importlib.import_module(module), name, None)
    sys.modules.update(dict.fromkeys(blocked))  # type: ignore[arg-type]


def ring(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - a signal handler's signature
    """Handles SIGALRM."""
    raise TooSlowError


def without_main_guard(code: str) -> str:
    """Returns `code` with a final `if __name__ == '__main__'` replaced by its body. Code that does not parse stays."""
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return code
    last = tree.body[-1] if tree.body else None
    if isinstance(last, ast.If) and ast.unparse(last.test).strip() == "__name__ == '__main__'":
        tree.body[-1:] = last.body
        return ast.unparse(tree)
    return code


def as_function(code: str) -> str:
    """Returns `code` as the function `wrapped_function` below its imports. Code that does not parse stays."""
    try:
        body = ast.parse(code).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return code
    imports: list[ast.stmt] = [line for line in body if isinstance(line, ast.Import | ast.ImportFrom)]
    rest = [line for line in body if not isinstance(line, ast.Import | ast.ImportFrom)]
    function = ast.parse("def wrapped_function():\n    pass").body[0]
    function.body = rest  # type: ignore[attr-defined]
    return "\n".join([prelude(), ast.unparse(ast.Module(imports, [])), ast.unparse(function)])


def load(code: str, timeout: int) -> Any:  # noqa: ANN401 - an answer's module or its Solution
    """Returns the answer's `Solution()` if its text has that class, else its module."""
    signal.alarm(timeout)
    try:
        module = ModuleType("tmp_sol")
        exec(code, module.__dict__)  # noqa: S102 - running the answer is this script's purpose
        return module.Solution() if "class Solution" in code else module
    finally:
        signal.alarm(0)


def call_with_input(function: Callable[[], object], text: str) -> None:
    """Calls an answer with `text` as its standard input. SystemExit counts as a normal end."""
    stdin, lines = sys.stdin, iter(text.split("\n"))
    with (
        mock.patch.object(stdin, "read", lambda *_: text),
        mock.patch.object(stdin, "readlines", lambda *_: text.split("\n")),
        mock.patch.object(stdin, "readline", lambda *_: next(lines)),
        mock.patch("sys.stdin", io.StringIO(text)),
        mock.patch("builtins.open", mock.mock_open(read_data=text)),
    ):
        try:
            function()
        except SystemExit:
            return


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


def passes_stdin(task: dict[str, Any]) -> bool:
    """True if a whole program is right on every input. Stops at the first failure."""
    function = load(as_function(without_main_guard(task["code"])), task["timeout"]).wrapped_function
    for text, wanted in zip(task["inputs"], task["outputs"], strict=False):
        out = io.StringIO()
        out.close = lambda: None  # type: ignore[method-assign]
        signal.alarm(task["timeout"])
        with mock.patch("sys.stdout", out):
            try:
                call_with_input(function, text)
            finally:
                signal.alarm(0)
        if not same_output(out.getvalue(), wanted):
            return False
    return True


def passes_calls(task: dict[str, Any]) -> bool:
    """True if the answer's method is right on every input (one JSON argument per line). Stops at the first failure."""
    method = getattr(load(prelude() + "\n\n" + task["code"], task["timeout"]), task["fn_name"])
    inputs = [[json.loads(line) for line in text.split("\n")] for text in task["inputs"]]
    outputs = [json.loads(text) for text in task["outputs"]]
    for arguments, wanted in zip(inputs, outputs, strict=False):
        signal.alarm(task["timeout"])
        try:
            result = method(*arguments)
        finally:
            signal.alarm(0)
        same = (list(result) if isinstance(result, tuple) else result) == wanted
        if not same:
            return False
    return True


def main() -> None:
    """Judges the task on stdin and prints `{"nonce": ..., "passed": ...}` to a stdout that the answer cannot reach."""
    task = json.load(sys.stdin)
    verdict = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    sys.stdin = os.fdopen(os.dup(nothing), "r", encoding="utf-8")
    signal.signal(signal.SIGALRM, ring)
    disable_harm(task["disabled"], task["blocked"])
    signal.alarm(task["timeout"])
    try:
        passed = passes_stdin(task) if task["fn_name"] is None else passes_calls(task)
    except Exception:  # noqa: BLE001 - whatever an answer raises, it is wrong
        passed = False
    signal.alarm(0)
    verdict.write(json.dumps({"nonce": task["nonce"], "passed": bool(passed)}) + "\n")
    verdict.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
