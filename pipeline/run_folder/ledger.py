"""The nfe_log.jsonl of one job, kept at one line per scored sample.

A job writes only its own log. Another job may have logged the same sample; `nfe.read_run_ledger` merges the logs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from trimode.core.files import AppendFile, write_text_atomic
from trimode.pipeline.run_folder.lease import Lease
from trimode.pipeline.run_folder.nfe import NfeRecord, read_nfe_log, read_run_ledger
from trimode.pipeline.run_folder.paths import RunPaths
from trimode.pipeline.run_folder.rows import SeedState, num_rows, read_seed
from trimode.pipeline.spec import JobSpec

SeedKey = tuple[str, int]
"""(benchmark, seed)."""


class Ledger:
    """The nfe_log.jsonl of one job: made to agree with the rows when it is opened, then appended to."""

    def __init__(self, spec: JobSpec, paths: RunPaths, lease: Lease | None = None) -> None:
        self._spec = spec
        self._lease = lease
        self._paths = paths
        self.path = paths.nfe_log(spec.index)
        self._file: AppendFile | None = None
        self._lines: list[NfeRecord] = []
        """Every line of the file."""

    def open(self, seeds: Mapping[SeedKey, SeedState] | None = None) -> None:
        """Makes the log agree with the rows and opens it for appending.

        `seeds`: what the files of the job's seeds hold; read here when it is not handed in.
        """
        logged = read_nfe_log(self.path)
        own = {record.key: record for record in logged}
        carried: list[NfeRecord] = []
        for task in self._spec.tasks:
            share = set(task.positions(num_rows(self._paths, task)))
            for seed in task.seeds:
                key = task.benchmark, seed
                state = read_seed(self._paths, *key) if seeds is None else seeds[key]
                for stale in [k for k in own if k[:2] == key and k[2] not in state.stored]:
                    del own[stale]  # its row was removed, so the sample will be asked again
                mine = sorted(p for p in state.carried if task.chunk is None or p in share)
                carried += [state.carried[position] for position in mine]
        lost = self._not_logged(record for record in carried if record.key not in own)
        own |= {record.key: record for record in carried if record.key in own}
        own |= {record.key: record for record in lost}
        self._lines = list(own.values())
        if self._lines != logged:
            self._rewrite()
        self._file = AppendFile(self.path)

    def append(self, record: NfeRecord) -> None:
        """Adds the line of a row that has just been written."""
        assert self._file is not None
        self._file.append(record.to_line())
        self._lines.append(record)

    def add_lost(self, records: Iterable[NfeRecord]) -> None:
        """Adds the lines that a kill has lost: those of `records` that no log of the run folder holds."""
        for record in self._not_logged(records):
            self.append(record)

    def sync(self) -> None:
        """Waits until every line is on the disk."""
        if self._file is not None:
            self._file.sync()

    def close(self) -> None:
        """Closes the log and removes the earlier lines of samples that were run again, and those of an earlier run.

        A run of the job that lost its lease leaves the log to the one that holds it.
        """
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._lease is not None and not self._lease.is_held():
            return
        latest = list({record.key: record for record in self._lines}.values())
        if len(latest) < len(self._lines) or (self._lease is not None and read_nfe_log(self.path) != latest):
            self._lines = latest
            self._rewrite()

    def _not_logged(self, records: Iterable[NfeRecord]) -> list[NfeRecord]:
        """Returns the records of which the merged logs do not hold the same line."""
        wanted = list(records)
        merged = read_run_ledger(self._paths.run_dir) if wanted else {}
        return [record for record in wanted if merged.get(record.key) != record]

    def _rewrite(self) -> None:
        write_text_atomic(self.path, "".join(record.to_line() for record in self._lines))
