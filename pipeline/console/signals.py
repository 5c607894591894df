"""Turns signals into an orderly end of a job."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from types import FrameType

from trimode.core.errors import Stopped

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2, signal.SIGHUP)
"""Signals that end a job: cancelling, Ctrl-C, Slurm's warning before the time limit, a closed terminal."""


class Signals:
    """A context manager that raises Stopped for the first ending signal, at a safe place. Later signals do nothing.

    The handler only remembers the signal. An exception raised in it could get lost (in a finaliser, a fork hook) or
    leave a process half started. Stopped is raised by `check`, by `run`, and immediately inside `at_once`.
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
        """Ignores signals from now on: the job is ending and must write its record."""
        self._ignore = True

    def check(self) -> None:
        """Raises Stopped if a signal has come."""
        if self._received is not None:
            raise Stopped(self._received)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Lets a signal interrupt the block at once: for code that waits without calling `check`."""
        self.check()
        self._raise = True
        try:
            yield
        finally:
            self._raise = False
        self.check()

    def run(self, work: Coroutine[object, object, None]) -> None:
        """Runs a coroutine to its end. If a signal comes, cancels it, waits for its cleanup and raises Stopped."""
        try:
            asyncio.run(self._register(work))
        except asyncio.CancelledError:
            if self._received is not None:
                raise Stopped(self._received) from None
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
            raise Stopped(signum)
        if self._running is not None:
            loop, task = self._running
            loop.call_soon_threadsafe(task.cancel)
