"""The file of one worker process: appended, synchronised and kept small by a thread of its own.

Whatever goes wrong with the file ends the journal with a remark, and nothing else.
"""

from __future__ import annotations

import contextlib
import os
import queue
import sys
import threading
import time
from collections import OrderedDict
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from trimode.core.continuation import Continuation
from trimode.workers.journal.lines import failed_line, header, part_line

SYNC_EVERY_S = 5.0
"""What is written reaches the disk at least this often. After the death of a process, unlike that of a machine, nothing
that was written is lost."""
MIN_REWRITE_BYTES = 1 << 20
"""A smaller file is never rewritten."""
REWRITE_FACTOR = 2
"""A file is rewritten when it is this many times as large as what is needed of it."""
MAX_ENDED = 64
"""Requests that have ended are kept up to this number, the latest ones: perhaps nobody got the reply."""


@dataclass(frozen=True, slots=True)
class _Ended:
    """Says that a request has ended."""

    digest: str
    failed: bool


_Item = Continuation | _Ended | Future[None] | None
"""A future asks for everything before it to be on the disk. None ends the thread."""


class JournalWriter:
    """Appends parts of requests to one file. Its methods only queue; any thread may call them."""

    def __init__(self, path: Path, identity: str) -> None:
        self.path = path
        self.failed = False
        """True once the journal has switched itself off."""
        self.cpu_s = 0.0
        """CPU time that the thread has taken."""
        self._header = header(identity)
        self._queue: queue.SimpleQueue[_Item] = queue.SimpleQueue()
        self._lines: dict[str, list[bytes]] = {}
        """By digest, what a rewritten file keeps."""
        self._ended: OrderedDict[str, None] = OrderedDict()
        """Digests of `_lines` whose requests have ended, oldest first."""
        self._kept_bytes = 0
        self._file_bytes = 0
        self._handle: int | None = None
        self._synced = time.monotonic()
        self._is_synced = True
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    def add(self, part: Continuation) -> None:
        """Appends a part of a running request, which must begin where the one before has ended."""
        self._queue.put(part)

    def end(self, digest: str, *, failed: bool = False) -> None:
        """Says that a request has ended. One that `failed` is marked, so that nobody goes on with it."""
        self._queue.put(_Ended(digest, failed))

    def flush(self, done: Future[None]) -> None:
        """Ends `done` once everything before it is on the disk, or the journal is off."""
        self._queue.put(done)

    def close(self) -> None:
        """Ends the thread once everything is written."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        items: list[_Item] = []
        while None not in items:
            items = self._wait()
            flushes = [item for item in items if isinstance(item, Future)]
            if not self.failed:
                try:
                    self._take(items, sync=bool(flushes) or None in items)
                except OSError as error:
                    self._switch_off(error)
            for flush in flushes:
                if flush.set_running_or_notify_cancel():
                    flush.set_result(None)
            self.cpu_s = time.thread_time()
        self._close()

    def _wait(self) -> list[_Item]:
        """Returns what is queued, at least one item unless the file is to be synchronised."""
        items: list[_Item] = []
        with contextlib.suppress(queue.Empty):
            items.append(self._queue.get(timeout=None if self._is_synced else max(0.0, self._sync_due_s())))
            while True:
                items.append(self._queue.get_nowait())
        return items

    def _sync_due_s(self) -> float:
        return self._synced + SYNC_EVERY_S - time.monotonic()

    def _take(self, items: list[_Item], *, sync: bool) -> None:
        new: list[bytes] = []
        for item in items:
            if isinstance(item, Continuation):
                new.append(self._keep(item.digest, part_line(item)))
            elif isinstance(item, _Ended):
                if item.failed:
                    self._forget(item.digest)
                    new.append(self._keep(item.digest, failed_line(item.digest)))
                self._ended[item.digest] = None
                if len(self._ended) > MAX_ENDED:
                    self._forget(next(iter(self._ended)))
        if new:
            self._write(b"".join(new))
        if self._file_bytes > max(MIN_REWRITE_BYTES, REWRITE_FACTOR * self._kept_bytes):
            self._rewrite()
        if not self._is_synced and (sync or self._sync_due_s() <= 0):
            self._sync()

    def _keep(self, digest: str, line: bytes) -> bytes:
        self._lines.setdefault(digest, []).append(line)
        self._kept_bytes += len(line)
        self._ended.pop(digest, None)
        return line

    def _forget(self, digest: str) -> None:
        self._ended.pop(digest, None)
        self._kept_bytes -= sum(map(len, self._lines.pop(digest, ())))

    def _write(self, data: bytes) -> None:
        if self._handle is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._open(self.path)
            data = self._header + data
        self._append(data)

    def _open(self, path: Path) -> None:
        self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._file_bytes = 0

    def _append(self, data: bytes) -> None:
        assert self._handle is not None
        view = memoryview(data)
        while view:
            view = view[os.write(self._handle, view) :]
        self._file_bytes += len(data)
        self._is_synced = False

    def _sync(self) -> None:
        assert self._handle is not None
        os.fsync(self._handle)
        self._synced, self._is_synced = time.monotonic(), True

    def _rewrite(self) -> None:
        """Replaces the file by one that holds what is needed. A reader sees the old one or the new one."""
        self._close()
        beside = self.path.with_suffix(".tmp")
        try:
            self._open(beside)
            self._append(self._header + b"".join(line for lines in self._lines.values() for line in lines))
            self._sync()
            beside.replace(self.path)
        except OSError:
            beside.unlink(missing_ok=True)
            raise

    def _switch_off(self, error: OSError) -> None:
        self.failed = True
        self._lines.clear()
        print(
            f"journal: {self.path} cannot be written ({error.strerror}); from now on a request that is cut off starts "
            "again from its prompt",
            file=sys.stderr,
            flush=True,
        )
        self._close()

    def _close(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
