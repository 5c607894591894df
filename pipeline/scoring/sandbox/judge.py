"""What all judges share: reading their task in two steps, starting answers in between, and printing the verdict.

A judge compares results with what is expected and never runs an answer. It starts the answer's process before it reads
what is expected, so that nothing of it is in that process' memory.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from trimode.pipeline.scoring.sandbox.answer import Answer, StarvedError
from trimode.pipeline.scoring.sandbox.guest import Start
from trimode.pipeline.scoring.sandbox.isolation import Bounds, end_with_parent, enter_namespaces, hide

LENGTH_DIGITS = 16
"""Decimal digits of a message's length, which stand before the message."""
Verdict = dict[str, Any]


def message(content: dict[str, Any]) -> str:
    """Returns one message for a judge's standard input: ASCII text, so that it passes through any service."""
    text = json.dumps(content)
    return f"{len(text):0{LENGTH_DIGITS}}{text}"


def read_message() -> dict[str, Any]:
    """Returns the next message and reads no byte of what follows it."""
    return dict(json.loads(_read(int(_read(LENGTH_DIGITS)))))


def _read(size: int) -> bytes:
    parts = []
    while size > 0:
        part = os.read(0, size)
        if not part:
            raise EOFError("the task ended early")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


class Court:
    """Starts the answer's processes with the limits of one task."""

    def __init__(self, limits: dict[str, Any]) -> None:
        self._limits = limits
        self._deadline = time.monotonic() + limits["wall_s"]
        in_force = enter_namespaces(Path.cwd(), limits["folder_bytes"])
        hide()
        if "processes" in in_force and os.fork() == 0:
            _wait_for_ever()

    def answer(self, start: Start, total_cpu_s: float) -> Answer:
        """Starts a process for the answer. It runs nothing of it before `Answer.start`."""
        names = ("memory_bytes", "file_bytes", "folder_bytes", "num_files")
        bounds = Bounds(**{name: self._limits[name] for name in names}, cpu_s=int(total_cpu_s) + 10)
        return Answer(start, bounds, total_cpu_s, self._deadline)


def _wait_for_ever() -> NoReturn:
    """Is the first process of the process namespace. The kernel ends the others with it."""
    try:
        end_with_parent()
        os.closerange(0, os.sysconf("SC_OPEN_MAX"))
        while True:
            signal.pause()
    finally:
        os._exit(0)


def preside(judge: Callable[[Court, dict[str, Any]], Verdict]) -> None:
    """Reads the answer's message, lets `judge` reach a verdict and prints it."""
    end_with_parent()
    task = read_message()
    try:
        verdict = judge(Court(task["limits"]), task)
    except StarvedError as error:
        verdict = {"starved": str(error)}
    print(json.dumps(verdict), flush=True)
    sys.stdout.flush()
    os._exit(0)
