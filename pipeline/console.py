"""What a job prints and how it is interrupted: output copied into the job's log, signals turned into an orderly end.

Knows nothing of what the job does.
"""

from __future__ import annotations

import asyncio
import io
import signal
import sys
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO

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


class Tee(io.TextIOBase):
    """A text stream that writes to the stream it replaces and to the job's log."""

    def __init__(self, stream: IO[str], log: IO[str]) -> None:
        self._stream = stream
        self._log = log

    def write(self, text: str) -> int:
        """Writes to both; returns the number of characters."""
        self._log.write(text)
        return self._stream.write(text)

    def flush(self) -> None:
        """Flushes both."""
        self._log.flush()
        self._stream.flush()

    def isatty(self) -> bool:
        """As the stream it replaces."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """As the stream it replaces."""
        return self._stream.fileno()


class JobLog:
    """Copies all this process prints into one file, appended over resumes; a context manager."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._streams = (sys.stdout, sys.stderr)

    def __enter__(self) -> JobLog:
        self._file = self.path.open("a", encoding="utf-8", buffering=1)
        self._streams = (sys.stdout, sys.stderr)
        sys.stdout = Tee(self._streams[0], self._file)
        sys.stderr = Tee(self._streams[1], self._file)
        return self

    def __exit__(self, *_error: object) -> None:
        sys.stdout, sys.stderr = self._streams
        self._file.close()

    @property
    def terminal(self) -> IO[str] | None:
        """The terminal this process prints on, or None."""
        return self._streams[0] if self._streams[0].isatty() else None

    def write_line(self, line: str) -> None:
        """A line for the log alone."""
        self._file.write(line + "\n")
