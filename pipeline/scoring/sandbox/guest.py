"""The side of an answer's process: runs the answer and sends back what its functions return, as plain data.

This process holds no expected value and decides nothing. Whatever the answer does to it, it can only send results.
"""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable, Mapping
from os import _exit, read, write
from typing import Any, NoReturn

from trimode.pipeline.scoring.sandbox.values import digest, encode, is_large

HEADER_BYTES = 8
"""Bytes of a frame's length, which stand before the frame."""
DONE = b"\x01"
"""Sent when a call returned, before its result is encoded: encoding is not the answer's time."""
Start = Callable[[], Mapping[str, Callable[..., object]]]
"""Runs an answer's code and returns the functions that the judge may call."""


def read_frame(descriptor: int) -> bytes | None:
    """Returns the next frame, or None at the end of the pipe."""
    size = _read_exactly(descriptor, HEADER_BYTES)
    return None if size is None else _read_exactly(descriptor, int.from_bytes(size, "big"))


def _read_exactly(descriptor: int, size: int) -> bytes | None:
    parts = []
    while size > 0:
        part = read(descriptor, min(size, 1 << 20))
        if not part:
            return None
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def write_frame(descriptor: int, content: bytes) -> None:
    """Writes one frame."""
    rest = memoryview(len(content).to_bytes(HEADER_BYTES, "big") + content)
    while rest:
        rest = rest[write(descriptor, rest) :]


class Guest:
    """The functions of one answer, and the functions and iterators that its calls returned."""

    def __init__(self, start: Start) -> None:
        self._start = start
        self._functions: Mapping[str, Callable[..., object]] = {}
        self._held: list[Any] = []

    def hold(self, thing: object) -> int:
        """Keeps a function or an iterator and returns its number."""
        self._held.append(thing)
        return len(self._held) - 1

    def perform(self, action: str, target: str | int, arguments: list[Any], keywords: dict[str, Any]) -> object:
        """Starts the answer, calls a function, takes an iterator's next item, or returns a result that was kept."""
        if action == "start":
            self._functions = self._start()
            return None
        if action == "fetch":
            return self._held[int(target)]
        if action == "next":
            return next(self._held[int(target)])
        if isinstance(target, str) and target not in self._functions:
            raise NameError(f"name {target!r} is not defined")
        function = self._functions[target] if isinstance(target, str) else self._held[target]
        return function(*arguments, **keywords)

    def serve(self, requests: int, replies: int) -> NoReturn:
        """Answers requests until the judge closes the pipe."""
        while (request := read_frame(requests)) is not None:
            action, target, arguments, keywords, watch = pickle.loads(request)  # noqa: S301 - written by the judge
            before = self._forms(arguments) if watch else []
            failure, value = None, None
            try:
                value = self.perform(action, target, arguments, keywords)
            except BaseException as error:  # noqa: BLE001 - the answer may raise anything
                failure = _failure(error)
            write(replies, DONE)
            try:
                reply = failure or {"value": self._form(value, whole=action == "fetch")}
                if watch and (after := self._forms(arguments)) != before:
                    reply["arguments"] = after
                content = json.dumps(reply).encode()
            except Exception as error:  # noqa: BLE001 - the result's class may be the answer's own
                content = json.dumps(_failure(error)).encode()
            write_frame(replies, content)
        _exit(0)

    def _form(self, value: object, *, whole: bool) -> Any:  # noqa: ANN401 - any form
        checksum = digest(value) if is_large(value) and not whole else None
        return encode(value, self.hold) if checksum is None else {"g": [self.hold(value), checksum]}

    def _forms(self, arguments: list[Any]) -> list[Any]:
        return [encode(copy.deepcopy(argument), self.hold) for argument in arguments]


def _failure(error: BaseException) -> dict[str, Any]:
    try:
        text = str(error)[:1000]
    except Exception:  # noqa: BLE001 - the class may be the answer's own
        text = ""
    return {"error": type(error).__name__, "text": text, "leaves": not isinstance(error, Exception)}
