"""Starts a chat command. Needs the standard library alone, so that it can say what a Python lacks."""

from __future__ import annotations

import sys
from collections.abc import Sequence

MIN_PYTHON = (3, 11)
SETUP = "`bash eval.sh --setup worker` makes the environment, and .venv/bin/python then runs this command"


def conversation(argv: Sequence[str], prog: str) -> int:
    """Talks until the user ends it. Returns the exit status."""
    return _started(argv, None, prog)


def one_question(argv: Sequence[str], mode: str, prog: str) -> int:
    """Answers one user message from stdin. Returns the exit status."""
    return _started(argv, mode, prog)


def _started(argv: Sequence[str], mode: str | None, prog: str) -> int:
    """Runs the command. A Python that is too old or lacks a package is one line on stderr and exit status 2."""
    if sys.version_info < MIN_PYTHON:
        return _refused(f"this is Python {sys.version.split()[0]}; valid: {'.'.join(map(str, MIN_PYTHON))} or newer")
    try:
        from trimode.chat import talk

        return talk.conversation(argv, prog) if mode is None else talk.one_question(argv, mode, prog)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "trimode":
            raise
        return _refused(f"{sys.executable} lacks the package {error.name}")


def _refused(cause: str) -> int:
    print(f"error: {cause}; {SETUP}", file=sys.stderr)
    return 2
