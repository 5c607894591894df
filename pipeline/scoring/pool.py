"""A pool of scoring processes. Each row goes to a free process and has a time limit.

A process that hangs, crashes or exits costs only the row it was scoring. That row, and one whose scorer
failed for a reason outside of it, is judged once more while nothing else is scored: no verdict depends on how busy the
machine is. A row that fails then as well is not called wrong without a word, it gets a `scoring_error`.

Processes are started fresh and never forked, because the caller may hold threads and devices. They are not threads,
because math-verify needs a main thread.
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
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from trimode.core.project import child_environment
from trimode.core.protocol import Row
from trimode.pipeline.benchmarks import Benchmark
from trimode.pipeline.scoring import worker
from trimode.pipeline.scoring.patience import Patience
from trimode.pipeline.scoring.registry import SCORERS, scorer_of, unscored
from trimode.pipeline.scoring.sandbox.folders import remove_left
from trimode.pipeline.scoring.turns import TURNS

WORKER_MODULE = worker.__name__
"""Module that a scoring process runs."""
START_LIMIT_S = 120.0
"""Extra seconds for a process's first row, because its libraries load then."""
LOG_TAIL = 300
"""Last characters of a dead process's stderr that its error message keeps."""


class ScoringPool:
    """Scores rows of one benchmark in `num_processes` processes, between `open` and `close` or `abandon`.

    As a context manager it closes at the end of the block, and abandons when an error leaves the block.
    """

    def __init__(self, benchmark: Benchmark, data_dir: Path | None, num_processes: int) -> None:
        self._benchmark = benchmark
        self._data_dir = data_dir
        self._limit_s = scorer_of(benchmark).ROW_LIMIT_S
        self._rows: queue.SimpleQueue[tuple[Row, Future[Row]] | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._serve, name=f"scorer-{index}", daemon=True) for index in range(num_processes)
        ]
        self._abandoned = threading.Event()

    def open(self) -> None:
        """Makes the pool ready; each process starts with its first row."""
        if SCORERS[self._benchmark.scorer].runs_programs:
            from trimode.pipeline.scoring.sandbox.protection import announce  # loads httpx, which others do not need

            remove_left()
            announce()
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Scores every row that was submitted, then ends the processes. Returns when all of that is done."""
        self._end_threads()
        for thread in self._threads:
            thread.join()

    def abandon(self) -> None:
        """Cancels the rows that wait for a process and returns at once.

        A process that is scoring a row ends after that row, or with the caller's process.
        """
        self._abandoned.set()
        with contextlib.suppress(queue.Empty):
            while (item := self._rows.get_nowait()) is not None:
                item[1].cancel()
        self._end_threads()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()

    def _end_threads(self) -> None:
        for _ in self._threads:
            self._rows.put(None)

    def submit(self, row: Row) -> Future[Row]:
        """Returns a future of the verdict fields of `row`. It never fails: errors are in the field `scoring_error`."""
        future: Future[Row] = Future()
        self._rows.put((row, future))
        return future

    def _serve(self) -> None:
        process = _Process(self._benchmark, self._data_dir)
        try:
            while (item := self._rows.get()) is not None:
                row, future = item
                if self._abandoned.is_set():
                    future.cancel()
                elif future.set_running_or_notify_cancel():
                    try:
                        future.set_result(self._judge(process, row))
                    except Exception as error:  # noqa: BLE001 - else whoever waits for the row would wait for ever
                        future.set_exception(error)
        finally:
            process.stop()

    def _judge(self, process: _Process, row: Row) -> Row:
        with TURNS.together():
            verdict = self._attempt(process, row, alone=False)
        if isinstance(verdict, dict) and not verdict.pop(worker.JUDGE_AGAIN, False):
            return verdict
        if not self._abandoned.is_set():
            with TURNS.alone():
                verdict = self._attempt(process, row, alone=True)
        if isinstance(verdict, str):
            return unscored(self._benchmark, row, verdict)
        verdict.pop(worker.JUDGE_AGAIN, None)
        return verdict

    def _attempt(self, process: _Process, row: Row, alone: bool) -> Row | str:
        """Returns the verdict, or why there is none. The process is stopped then."""
        try:
            return process.ask(row, self._limit_s, alone)
        except TimeoutError:
            reason = f"scoring took longer than {self._limit_s:g} s"
        except (OSError, ValueError) as error:
            reason = f"the scoring process ended: {error}"
        process.stop()
        return reason


class _Process:
    """One scoring process. Starts with the first row, and again with the next row after `stop`."""

    def __init__(self, benchmark: Benchmark, data_dir: Path | None) -> None:
        self._environment = child_environment()
        self._command = [sys.executable, "-m", WORKER_MODULE, *worker.arguments(benchmark, data_dir)]
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None
        self._received = b""
        self._started = False

    def ask(self, row: Row, limit_s: float, alone: bool) -> Row:
        """Returns the verdict of `row`. `alone`: this process scores nothing else meanwhile.

        Raises TimeoutError when `Patience` for `limit_s` is over, ChildProcessError if the process died.
        """
        process = self._process or self._start()
        assert process.stdin is not None
        patience = Patience(limit_s + (0 if self._started else START_LIMIT_S), process.pid, alone)
        try:
            process.stdin.write(json.dumps(row).encode() + b"\n")
            process.stdin.flush()
            verdict = json.loads(self._read_line(process, patience))
        except (BrokenPipeError, EOFError) as error:
            raise ChildProcessError(self._failure_message(process)) from error
        self._started = True
        return dict(verdict)

    def stop(self) -> None:
        """Kills the process and its process group."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.communicate()
        if self._log is not None:
            self._log.close()
        self._process, self._log, self._received, self._started = None, None, b"", False

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

    def _read_line(self, process: subprocess.Popen[bytes], patience: Patience) -> bytes:
        assert process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._received:
                if not selector.select(patience.pause_s()):
                    if patience.is_over():
                        raise TimeoutError
                    continue
                chunk = os.read(process.stdout.fileno(), 1 << 16)
                if not chunk:
                    raise EOFError
                self._received += chunk
        line, _, self._received = self._received.partition(b"\n")
        return line

    def _failure_message(self, process: subprocess.Popen[bytes]) -> str:
        status = process.wait()
        assert self._log is not None
        self._log.seek(0)
        text = self._log.read().decode(errors="replace").strip()[-LOG_TAIL:]
        return f"exit status {status}" + (f", {text}" if text else "")
