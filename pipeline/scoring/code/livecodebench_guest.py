"""Runs one LiveCodeBench answer in its own process.

Follows the rules of the harness NeMo-Skills 0.7.0 uses, its quirks included: stdin answers run inside a function with
`sys.stdin` replaced, so that `sys.stdin.buffer`, `open(0)`, module-level `global` and `class Solution` fail there, and
an answer that closes its standard output fails too.
"""

from __future__ import annotations

import ast
import io
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any
from unittest import mock

from trimode.pipeline.scoring.sandbox.disabled import disable
from trimode.pipeline.scoring.sandbox.guest import Start

STAR_MODULES = (
    *("string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math", "random", "statistics"),
    *("itertools", "functools", "operator", "io", "sys", "json", "builtins", "typing"),
)
"""Modules whose names an answer can use without an import. The later module wins."""
NO_NAME_MODULES = ("builtins", "typing")
"""Those of them that are not available under their own name."""
RECURSION_LIMIT = 50_000
INT_DIGITS = 50_000
"""Most decimal digits of an integer that is read or written as text."""
PROGRAM = "wrapped_function"
"""Name of a program that reads standard input."""


def prelude() -> str:
    """Returns the imports that are put in front of every answer."""
    stars = [f"from {name} import *" for name in STAR_MODULES]
    names = [f"import {name}" for name in STAR_MODULES if name not in NO_NAME_MODULES]
    return "\n".join([*stars, *names, f"sys.setrecursionlimit({RECURSION_LIMIT})\n"])


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


def load(code: str) -> Any:  # noqa: ANN401 - an answer's module or its Solution
    """Returns the answer's `Solution()` if its text has that class, else its module."""
    module = ModuleType("tmp_sol")
    exec(code, module.__dict__)  # noqa: S102 - running the answer is the purpose
    return module.Solution() if "class Solution" in code else module


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


def output_of(function: Callable[[], object], text: str) -> str:
    """Returns what an answer prints with `text` as its standard input."""
    out = io.StringIO()
    setattr(out, "close", lambda _: 1)  # noqa: B010 - the harness' own: closing without an argument is an error
    with mock.patch("sys.stdout", out):
        call_with_input(function, text)
    return out.getvalue()


def starter(code: str, fn_name: str | None) -> Start:
    """Returns what runs the answer's code. Its method stands under `fn_name`, a whole program under PROGRAM."""

    def start() -> Mapping[str, Callable[..., object]]:
        sys.set_int_max_str_digits(INT_DIGITS)
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - an empty one that can be patched
        disable()
        if fn_name is not None:
            return {fn_name: getattr(load(prelude() + "\n\n" + code), fn_name)}
        function = load(as_function(without_main_guard(code))).wrapped_function
        return {PROGRAM: lambda text: output_of(function, text)}

    return start
