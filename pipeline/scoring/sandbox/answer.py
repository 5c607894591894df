"""The judge's side of an answer's process: starts it, calls its functions and limits their time.

Time limits count CPU time, so that no verdict depends on the machine's load. Sleeping counts as the answer's time too.
Waiting for a processor does not: an answer that got none in time raises `StarvedError`, which is no verdict.
"""

from __future__ import annotations

import json
import os
import pickle
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

from trimode.pipeline.scoring.sandbox.guest import HEADER_BYTES, Guest, Start, write_frame
from trimode.pipeline.scoring.sandbox.isolation import Bounds, FolderWatch, isolate
from trimode.pipeline.scoring.sandbox.values import HeldFunction, HeldIterator, HeldResult, decode, digest, is_large

REPLY_BYTES = 256 << 20
"""Longest reply that is read."""
ENCODING_S = 0.5
"""CPU seconds that encoding a result may take, beyond one second per ENCODING_BYTES."""
ENCODING_BYTES = 2 << 20
ASLEEP_FACTOR, ASLEEP_S = 1.25, 1.0
"""A call may sleep this many times its CPU limit and this many seconds more."""
LONGEST_POLL_S = 0.1
OWN_DESCRIPTORS = (3, 4)
"""Where an answer's process has its two pipes."""


class NoResultError(Exception):
    """The answer gave no result: it ran out of time, ended its process, or sent something unreadable."""


class StarvedError(BaseException):
    """The wall clock's limit passed while the answer waited for a processor. This is no verdict on the answer.

    It is no Exception, so that a row's tests do not catch it as one of the answer's.
    """


class RaisedError(Exception):
    """The answer raised an exception."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(f"{name}: {text}")
        self.name = name
        """Name of the exception's class."""
        self.text = text


class Answer:
    """One process that runs one answer. It is forked here and must not know what is expected: fork before you read it.

    `total_cpu_s` limits all calls together. `deadline` is the wall clock's limit on time.monotonic().
    """

    def __init__(self, start: Start, bounds: Bounds, total_cpu_s: float, deadline: float) -> None:
        self._total_cpu_s, self._deadline = total_cpu_s, deadline
        request_reader, self._requests = os.pipe()
        self._replies, reply_writer = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            _become_guest(start, bounds, request_reader, reply_writer)
        os.close(request_reader)
        os.close(reply_writer)
        self._poll = select.poll()
        self._poll.register(self._replies, select.POLLIN)
        self._watch = FolderWatch(Path.cwd(), bounds.folder_bytes)
        self._allowed_s, self._cpu_mark, self._began, self._delay_mark = 0.0, 0.0, 0.0, 0.0

    def start(self, cpu_s: float) -> None:
        """Runs the answer's code."""
        reply = self._ask(("start", "", [], {}, False), cpu_s)
        if "error" in reply:
            raise RaisedError(str(reply["error"]), str(reply.get("text")))

    def call(
        self,
        target: str | HeldFunction,
        arguments: list[Any],
        cpu_s: float,
        keywords: dict[str, Any] | None = None,
        *,
        watch: bool = False,
        wanted: object = None,
    ) -> Any:  # noqa: ANN401 - any plain value
        """Returns what the answer's function returns, as plain data. An iterator gives its next item.

        A large result is fetched only if it is not the same as `wanted`. With `watch`, lists, dicts and sets among
        `arguments` get the content that the call gave them. Raises NoResultError, RaisedError or StarvedError, and
        whatever pickle raises for arguments that it cannot write.
        """
        name = target.handle if isinstance(target, HeldFunction) else target
        action = "next" if isinstance(target, HeldIterator) else "call"
        reply = self._ask((action, name, arguments, keywords or {}, watch), cpu_s)
        if "error" in reply:
            raise RaisedError(str(reply["error"]), str(reply.get("text")))
        try:
            if watch and "arguments" in reply:
                _write_back(arguments, reply["arguments"])
            value = decode(reply["value"])
            if not isinstance(value, HeldResult):
                return value
            if is_large(wanted) and digest(wanted) == value.digest:
                return wanted
            return decode(self._ask(("fetch", value.handle, [], {}, False), cpu_s)["value"])
        except (Exception, MemoryError) as error:
            raise NoResultError(f"unreadable result: {error}") from error

    def _ask(self, request: tuple[Any, ...], cpu_s: float) -> dict[str, Any]:
        content = pickle.dumps(request, protocol=5)
        try:
            self._mark(cpu_s)
            write_frame(self._requests, content)
            self._receive(1)
            if self._cpu() - self._cpu_mark > self._allowed_s:
                raise NoResultError("out of CPU time")
            self._mark(cpu_s + ENCODING_S)
            size = int.from_bytes(self._receive(HEADER_BYTES), "big")
            if size > REPLY_BYTES:
                raise NoResultError(f"result of {size} bytes")
            self._mark(ENCODING_S + size / ENCODING_BYTES)
            reply = json.loads(self._receive(size))
        except (OSError, ValueError, RecursionError, MemoryError) as error:
            raise NoResultError(f"no readable reply: {error}") from error
        if not isinstance(reply, dict) or reply.get("leaves"):
            raise NoResultError("the answer left")
        return reply

    def _mark(self, allowed_s: float) -> None:
        self._cpu_mark, self._began, self._delay_mark = self._cpu(), time.monotonic(), self._delay_s()
        self._allowed_s = max(0.0, min(allowed_s, self._total_cpu_s - self._cpu_mark))

    def _receive(self, size: int) -> bytes:
        parts = []
        while size > 0:
            while not self._poll.poll(1000 * self._pause_s()):
                self._check()
            part = os.read(self._replies, min(size, 1 << 20))
            if not part:
                raise NoResultError("the answer ended its process")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def _pause_s(self) -> float:
        return max(0.002, min(self._allowed_s - self._cpu() + self._cpu_mark, LONGEST_POLL_S))

    def _check(self) -> None:
        """Raises NoResultError if the present call's time is used up."""
        if self._cpu() - self._cpu_mark > self._allowed_s:
            raise NoResultError("out of CPU time")
        states = self._states()
        if "Z" in states or not states:
            raise NoResultError("the answer ended its process")
        asleep_s = time.monotonic() - self._began - (self._delay_s() - self._delay_mark)
        if asleep_s > ASLEEP_FACTOR * self._allowed_s + ASLEEP_S and not states & {"R", "D"}:
            raise NoResultError("asleep")
        if time.monotonic() > self._deadline:
            raise StarvedError(f"{time.monotonic() - self._began:.0f} s passed and the answer got too little of them")
        if self._watch.is_over():
            raise NoResultError("too much in its folder")

    def _cpu(self) -> float:
        """Returns the CPU seconds of the answer's process: all its threads since its start."""
        try:
            return time.clock_gettime((~self._pid << 3) | 2)  # the kernel's CPUCLOCK_SCHED of a process
        except OSError as error:
            raise NoResultError("the answer ended its process") from error

    def _delay_s(self) -> float:
        """Returns the seconds that the answer waited for a processor, 0 if the kernel does not count them."""
        try:
            return int(Path(f"/proc/{self._pid}/schedstat").read_bytes().split()[1]) / 1e9
        except (OSError, IndexError):
            return 0.0

    def _states(self) -> set[str]:
        """Returns the states of the process' threads as /proc writes them."""
        states = set()
        for path in Path(f"/proc/{self._pid}/task").glob("*/stat"):
            try:
                states.add(path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0])
            except OSError:
                continue
        return states

    def end(self) -> None:
        """Kills the process."""
        os.close(self._requests)
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        os.close(self._replies)


def _become_guest(start: Start, bounds: Bounds, request_reader: int, reply_writer: int) -> NoReturn:
    """Runs in the forked process: keeps two pipes, gives up every right, and answers requests."""
    try:
        own = [os.dup2(descriptor, 100 + number) for number, descriptor in enumerate((request_reader, reply_writer))]
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(nothing, descriptor)
        requests, replies = (os.dup2(high, low) for high, low in zip(own, OWN_DESCRIPTORS, strict=True))
        os.closerange(OWN_DESCRIPTORS[-1] + 1, os.sysconf("SC_OPEN_MAX"))
        sys.argv, sys.dont_write_bytecode = [""], True
        isolate(bounds)
        Guest(start).serve(requests, replies)
    finally:
        os._exit(70)


def _write_back(arguments: list[Any], forms: Any) -> None:  # noqa: ANN401 - from the answer's process
    """Gives the caller's lists, dicts and sets the content that the call left in its own copies of them."""
    for own, changed in zip(arguments, map(decode, forms), strict=True):
        if isinstance(own, list) and isinstance(changed, list):
            own[:] = changed
        elif isinstance(own, dict | set) and type(changed) is type(own):
            own.clear()
            own.update(changed)
