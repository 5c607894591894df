"""Writes scored rows and their ledger lines so that a kill at any instant loses and doubles nothing.

Order of writing: the row goes to `output-rsN.jsonl-async` first and carries its whole ledger record; only then the line
goes to nfe_log.jsonl. So after a kill the log can lack lines, never rows; `Ledger.reconcile` makes it one line per row.
At the end of a seed the ordered rows are renamed into place before the -async file goes: what is in both is the same.
Knows nothing of HTTP, scoring or which rows are asked.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
from collections.abc import Callable, Iterator

from trimode.core.files import AppendFile, whole_lines, write_text_atomic
from trimode.pipeline.run_folder.nfe import NfeRecord
from trimode.pipeline.run_folder.paths import RunPaths
from trimode.pipeline.run_folder.rows import LEDGER, POSITION, Row, read_async, read_rows
from trimode.pipeline.spec import Chunk

Arrange = Callable[[list[Row]], list[Row]]


class SeedStore:
    """The rows of one benchmark and seed while they arrive, and their finished file at the end.

    Jobs that share a benchmark have a store each with a `chunk`: their rows arrive in files of their own, and the last
    to finish puts all together.
    """

    def __init__(self, paths: RunPaths, benchmark: str, seed: int, chunk: Chunk | None = None) -> None:
        self._paths = paths
        self._benchmark = benchmark
        self._seed = seed
        self._chunk = chunk
        self._file: AppendFile | None = None

    def append(self, position: int, row: Row, record: NfeRecord) -> None:
        """Adds a scored row in order of arrival; the ledger line must follow."""
        if self._file is None:
            chunk = None if self._chunk is None else self._chunk.index
            with chunk_lock(self._paths, self._benchmark, self._chunk):
                for which in {None, chunk}:
                    self._paths.output_done(self._benchmark, self._seed, which).unlink(missing_ok=True)
                self._file = AppendFile(self._paths.output_async(self._benchmark, self._seed, chunk))
        self._file.append(_async_line(position, row | {LEDGER: record.to_json()}))

    def finish(self, rows_asked: int, arrange: Arrange) -> bool:
        """Writes the ordered rows, touches `.done` and removes the -async file; True once that is so.

        Every position below `rows_asked` must be there; with a chunk those of the other chunks may be missing: then
        only the chunk's own `.done` is touched. Rows of a larger earlier limit stay: in the finished file when it
        already held them, else in the -async file.
        """
        self.close()
        with chunk_lock(self._paths, self._benchmark, self._chunk):
            if self._chunk is not None and not self._is_last(self._chunk, rows_asked):
                return False
            self._merge(rows_asked, arrange)
        return True

    def _is_last(self, chunk: Chunk, rows_asked: int) -> bool:
        """Touches the chunk's `.done`; whether no other chunk is being answered and no row is missing.

        A chunk that has begun and not ended has a file of rows and no `.done`; one that had nothing to ask has neither.
        """
        done = self._paths.output_done(self._benchmark, self._seed, chunk.index)
        done.parent.mkdir(parents=True, exist_ok=True)
        done.touch()
        for index in range(chunk.count):
            begun = self._paths.output_async(self._benchmark, self._seed, index).exists()
            if begun and not self._paths.output_done(self._benchmark, self._seed, index).exists():
                return False
        rows = read_rows(self._paths, self._benchmark, self._seed)
        return all(position in rows for position in range(rows_asked))

    def _merge(self, rows_asked: int, arrange: Arrange) -> None:
        output = self._paths.output(self._benchmark, self._seed)
        newer = read_async(self._paths, self._benchmark, self._seed)
        count = max(rows_asked, sum(1 for _ in whole_lines(output)))
        if any(position < count for position in newer) or not output.exists():
            rows = read_rows(self._paths, self._benchmark, self._seed)
            ordered = [_plain(rows[position]) for position in range(count)]
            write_text_atomic(output, "".join(_line(row) for row in arrange(ordered)))
        self._paths.output_done(self._benchmark, self._seed).touch()
        self._leave_async({position: row for position, row in newer.items() if position >= count})

    def close(self) -> None:
        """Closes the -async file; what is in it stays."""
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _leave_async(self, rows: dict[int, Row]) -> None:
        path, *chunks = self._paths.outputs_async(self._benchmark, self._seed)
        if rows:
            write_text_atomic(path, "".join(_async_line(position, rows[position]) for position in sorted(rows)))
        else:
            path.unlink(missing_ok=True)
        for chunk in chunks:
            chunk.unlink(missing_ok=True)


@contextlib.contextmanager
def chunk_lock(paths: RunPaths, benchmark: str, chunk: Chunk | None) -> Iterator[None]:
    """Keeps other jobs that share the benchmark from beginning, merging or writing metrics meanwhile."""
    if chunk is None:
        yield
        return
    path = paths.merge_lock(benchmark)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _plain(row: Row) -> Row:
    return {key: value for key, value in row.items() if key != LEDGER}


def _line(row: Row) -> str:
    return json.dumps(row) + "\n"


def _async_line(position: int, row: Row) -> str:
    return _line(row | {POSITION: position})
