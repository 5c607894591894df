"""Runs one HumanEval+ or MBPP+ answer in its own process, with what evalplus takes from it before."""

from __future__ import annotations

import builtins
import contextlib
import faulthandler
import io
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

from trimode.pipeline.scoring.sandbox.disabled import disable
from trimode.pipeline.scoring.sandbox.guest import Start


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


def disable_harm() -> None:
    """Disables what evalplus disables: an answer that uses it fails there and must fail here."""
    faulthandler.disable()
    disable()
    builtins.open = None  # type: ignore[assignment]
    builtins.exit = None  # type: ignore[assignment]


def starter(task: dict[str, Any]) -> Start:
    """Returns what runs the answer's code. Its function stands under its own name."""
    code, entry_point = task["code"], task["entry_point"]

    def start() -> Mapping[str, Callable[..., object]]:
        disable_harm()
        scope: dict[str, Any] = {}
        with swallowed():
            exec(code, scope)  # noqa: S102 - running the answer is the purpose
        function = scope[entry_point]

        def quiet(*arguments: Any) -> object:  # noqa: ANN401 - of any type
            with swallowed():
                return function(*arguments)

        return {entry_point: quiet}

    return start
