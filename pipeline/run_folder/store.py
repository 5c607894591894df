"""Writes scored rows so that a kill at any instant loses nothing and doubles nothing.

Order of writing: the row goes to `output-rsN.jsonl-async` first and carries its whole ledger record; only then the line
goes to nfe_log.jsonl. So after a kill the log can lack lines, never rows; `Ledger.open` adds what is missing.
At the end of a seed the ordered rows are renamed into place before the -async file is removed, so a row that is in both
files is the same in both.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator

from trimode.core.files import AppendFile, locked, write_text_atomic
from trimode.core.protocol import Row
from trimode.pipeline.run_folder.lease import Lease
from trimode.pipeline.run_folder.ledger import Ledger
from trimode.pipeline.run_folder.nfe import NfeRecord
from trimode.pipeline.run_folder.paths import RunPaths
from trimode.pipeline.run_folder.rows import LEDGER, POSITION, merge_rows, read_async, read_output
from trimode.pipeline.spec import SampleShare

Arrange = Callable[[list[Row]], list[Row]]


class SeedStore:
    """The rows of one benchmark and seed while they arrive, and their finished file at the end.

    Jobs that share a benchmark each have a store with a `chunk`. Their rows arrive in separate files, and the last job
    to finish merges them.
    """

    def __init__(
        self,
        paths: RunPaths,
        benchmark: str,
        seed: int,
        chunk: SampleShare | None = None,
        ledger: Ledger | None = None,
        lease: Lease | None = None,
    ) -> None:
        self._paths = paths
        self._benchmark = benchmark
        self._seed = seed
        self._chunk = chunk
        self._ledger = ledger
        self._lease = lease
        self._file: AppendFile | None = None

    def append(self, position: int, row: Row, record: NfeRecord | None) -> None:
        """Adds a scored row in order of arrival. The caller adds the ledger line after it.

        `record` may be None for a row that was scored again and whose ledger line is lost. Raises LeaseLost.
        """
        if self._lease is not None:
            self._lease.check()
        if self._file is None:
            chunk = None if self._chunk is None else self._chunk.index
            with chunk_lock(self._paths, self._benchmark, self._chunk):
                for which in {None, chunk}:
                    self._paths.output_done(self._benchmark, self._seed, which).unlink(missing_ok=True)
                self._file = AppendFile(self._paths.output_async(self._benchmark, self._seed, chunk))
        carried = {} if record is None else {LEDGER: record.to_json()}
        self._file.append(_async_line(position, row | carried))

    def finish(self, rows_asked: int, arrange: Arrange) -> bool:
        """Writes the ordered rows, touches `.done` and removes the -async file. Returns True once that is so.

        Every position below `rows_asked` must be there; with a chunk those of the other chunks may be missing: then
        only the chunk's own `.done` is touched. Rows of a larger earlier limit stay: in the finished file when it
        already held them, else in the -async file. Raises LeaseLost.
        """
        self.close()
        if self._lease is not None:
            self._lease.check_now()
        with chunk_lock(self._paths, self._benchmark, self._chunk):
            if self._chunk is not None:
                self._touch_done(self._chunk.index)
                if self._others_run(self._chunk):
                    return False
            return self._merge(rows_asked, arrange)

    def _touch_done(self, chunk: int | None) -> None:
        done = self._paths.output_done(self._benchmark, self._seed, chunk)
        done.parent.mkdir(parents=True, exist_ok=True)
        done.touch()

    def _others_run(self, chunk: SampleShare) -> bool:
        """True if another chunk has begun and not ended: it has a file of rows and no `.done`."""
        return any(
            self._paths.output_async(self._benchmark, self._seed, index).exists()
            and not self._paths.output_done(self._benchmark, self._seed, index).exists()
            for index in range(chunk.count)
        )

    def _merge(self, rows_asked: int, arrange: Arrange) -> bool:
        """Puts the rows of every file into the finished one. Returns False if a chunk's rows are still missing."""
        output = self._paths.output(self._benchmark, self._seed)
        arrived = any(path.exists() for path in self._paths.outputs_async(self._benchmark, self._seed))
        if self._chunk is None and not arrived and output.exists():
            self._touch_done(None)
            return True
        newer = read_async(self._paths, self._benchmark, self._seed)
        finished = read_output(self._paths, self._benchmark, self._seed)
        rows = merge_rows(finished, newer)
        if self._chunk is not None and not all(position in rows for position in range(rows_asked)):
            return False
        count = max(rows_asked, len(finished))
        if any(position < count for position in newer) or not output.exists():
            self._log_lost(newer)
            ordered = [_plain(rows[position]) for position in range(count)]
            write_text_atomic(output, "".join(_line(row) for row in arrange(ordered)))
        self._touch_done(None)
        self._leave_async({position: row for position, row in newer.items() if position >= count})
        return True

    def _log_lost(self, newer: dict[int, Row]) -> None:
        """Logs rows of other jobs that were killed before their ledger lines: the merge removes what they carry."""
        if self._ledger is not None and self._chunk is not None:
            carried = (newer[position].get(LEDGER) for position in sorted(newer))
            self._ledger.add_lost(NfeRecord.from_json(record) for record in carried if isinstance(record, dict))
            self._ledger.sync()

    def close(self) -> None:
        """Closes the -async file; its rows stay."""
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
def chunk_lock(paths: RunPaths, benchmark: str, chunk: SampleShare | None) -> Iterator[None]:
    """Stops other jobs that share the benchmark from beginning, merging or writing metrics meanwhile."""
    with contextlib.nullcontext() if chunk is None else locked(paths.merge_lock(benchmark)):
        yield


def _plain(row: Row) -> Row:
    return {key: value for key, value in row.items() if key != LEDGER}


def _line(row: Row) -> str:
    return json.dumps(row) + "\n"


def _async_line(position: int, row: Row) -> str:
    return _line(row | {POSITION: position})
