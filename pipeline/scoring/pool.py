"""Scoring processes: each row goes to a free one, with a time limit; one that hangs, crashes or leaves costs its row.

Knows rows and verdicts, no scorer. Processes are started fresh, never forked from the caller, which may hold threads
and devices; a process each because math-verify needs a main thread for its own time limits.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from trimode.pipeline.benchmarks import Benchmark
from trimode.pipeline.scoring import worker
from trimode.pipeline.scoring.registry import scorer_of, unscored
from trimode.pipeline.scoring.scorer import Row

WORKER_MODULE = worker.__name__
"""What a scoring process runs."""
START_LIMIT_S = 120.0
"""Extra seconds for a process's first row: its libraries load first."""
LOG_TAIL = 300
"""Characters of a dead process's last words to keep."""


class ScoringPool:
    """Scores rows of one benchmark in `num_processes` processes while open; use as a context manager."""

    def __init__(self, benchmark: Benchmark, data_dir: Path | None, num_processes: int) -> None:
        self._benchmark = benchmark
        self._data_dir = data_dir
        self._limit_s = scorer_of(benchmark).ROW_LIMIT_S
        self._rows: queue.SimpleQueue[tuple[Row, Future[Row]] | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._serve, name=f"scorer-{index}", daemon=True) for index in range(num_processes)
        ]
        self._closing = threading.Event()

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the processes. Rows not scored yet are dropped when an error is on its way, and finished otherwise."""
        if kind is not None:
            self._closing.set()
        for _ in self._threads:
            self._rows.put(None)
        for thread in self._threads:
            thread.join()

    def submit(self, row: Row) -> Future[Row]:
        """The verdict fields of `row`, later. The future never fails: what went wrong stands in `scoring_error`."""
        future: Future[Row] = Future()
        self._rows.put((row, future))
        return future

    def _serve(self) -> None:
        process = _Process(self._benchmark, self._data_dir)
        try:
            while (item := self._rows.get()) is not None:
                row, future = item
                if self._closing.is_set():
                    future.cancel()
                elif future.set_running_or_notify_cancel():
                    future.set_result(self._judge(process, row))
        finally:
            process.stop()

    def _judge(self, process: _Process, row: Row) -> Row:
        try:
            return process.ask(row, self._limit_s)
        except TimeoutError:
            reason = f"scoring took longer than {self._limit_s:g} s"
        except (OSError, ValueError) as error:
            reason = f"the scoring process ended: {error}"
        process.stop()
        return unscored(self._benchmark, row, reason)


class _Process:
    """One scoring process, started when first needed and again after it was stopped."""

    def __init__(self, benchmark: Benchmark, data_dir: Path | None) -> None:
        paths = os.pathsep.join(str(Path(entry).resolve()) for entry in sys.path if entry)
        self._environment = {**os.environ, "PYTHONPATH": paths, "PYTHONSAFEPATH": "1"}
        self._command = [sys.executable, "-m", WORKER_MODULE, *worker.arguments(benchmark, data_dir)]
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None
        self._received = b""
        self._warm = False

    def ask(self, row: Row, limit_s: float) -> Row:
        """The verdict of `row`. Raises TimeoutError after `limit_s`, ChildProcessError when the process died."""
        process = self._process or self._start()
        assert process.stdin is not None
        deadline = time.monotonic() + limit_s + (0 if self._warm else START_LIMIT_S)
        try:
            process.stdin.write(json.dumps(row).encode() + b"\n")
            process.stdin.flush()
            verdict = json.loads(self._read_line(process, deadline))
        except (BrokenPipeError, EOFError) as error:
            raise ChildProcessError(self._last_words(process)) from error
        self._warm = True
        return dict(verdict)

    def stop(self) -> None:
        """Kills the process and all of its group."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.communicate()
        if self._log is not None:
            self._log.close()
        self._process, self._log, self._received, self._warm = None, None, b"", False

    def _start(self) -> subprocess.Popen[bytes]:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by stop()
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=self._environment,
            start_new_session=True,
        )
        return self._process

    def _read_line(self, process: subprocess.Popen[bytes], deadline: float) -> bytes:
        assert process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._received:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise TimeoutError
                chunk = os.read(process.stdout.fileno(), 1 << 16)
                if not chunk:
                    raise EOFError
                self._received += chunk
        line, _, self._received = self._received.partition(b"\n")
        return line

    def _last_words(self, process: subprocess.Popen[bytes]) -> str:
        status = process.wait()
        assert self._log is not None
        self._log.seek(0)
        words = self._log.read().decode(errors="replace").strip()[-LOG_TAIL:]
        return f"exit status {status}" + (f", {words}" if words else "")
