"""Turns signals into an orderly end of a job."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2, signal.SIGHUP)
"""What ends a job: cancelling, Ctrl-C, Slurm's warning before the time limit, a closed terminal."""


class Interrupted(BaseException):
    """The job was told to end by a signal; no `except Exception` below may swallow it."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"the job was ended by {signal.Signals(signum).name}")
        self.signum = signum


class Signals:
    """Turns the first ending signal into Interrupted at a safe place; later ones do nothing. A context manager.

    The handler itself only takes a note: an exception out of it can be lost (in a finaliser, a fork hook) or leave
    a process half started. It is raised by `check`, by `run`, and at once inside `at_once`.
    """

    def __init__(self) -> None:
        self._received: int | None = None
        self._ignore = False
        self._raise = False
        self._running: tuple[asyncio.AbstractEventLoop, asyncio.Task[None]] | None = None
        self._earlier: dict[int, object] = {}

    def __enter__(self) -> Signals:
        for signum in SIGNALS:
            self._earlier[signum] = signal.signal(signum, self._receive)
        return self

    def __exit__(self, *_error: object) -> None:
        for signum, handler in self._earlier.items():
            signal.signal(signum, handler)  # type: ignore[arg-type]

    def ignore(self) -> None:
        """From now on signals do nothing: the job is ending anyway and must write its record."""
        self._ignore = True

    def check(self) -> None:
        """Raises Interrupted when a signal came."""
        if self._received is not None:
            raise Interrupted(self._received)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """For code that blocks without asking `check`, like waiting for another program: a signal interrupts it."""
        self.check()
        self._raise = True
        try:
            yield
        finally:
            self._raise = False
        self.check()

    def run(self, work: Coroutine[object, object, None]) -> None:
        """Runs a coroutine to its end. Raises Interrupted, after its cleanup, when a signal came."""
        try:
            asyncio.run(self._register(work))
        except asyncio.CancelledError:
            if self._received is not None:
                raise Interrupted(self._received) from None
            raise
        finally:
            self._running = None

    async def _register(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._running = (asyncio.get_running_loop(), task)
        if self._received is not None:
            task.cancel()
        await work

    def _receive(self, signum: int, _frame: FrameType | None) -> None:
        if self._received is not None or self._ignore:
            return
        self._received = signum
        if self._raise:
            raise Interrupted(signum)
        if self._running is not None:
            loop, task = self._running
            loop.call_soon_threadsafe(task.cancel)
