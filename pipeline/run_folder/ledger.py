"""The nfe_log.jsonl of one job, kept at one line per scored sample."""

from __future__ import annotations

from dataclasses import dataclass

from trimode.core.files import AppendFile, cut_torn_line, write_text_atomic
from trimode.pipeline.run_folder.nfe import NfeRecord, read_nfe_log
from trimode.pipeline.run_folder.paths import RunPaths
from trimode.pipeline.run_folder.rows import LEDGER, Row, num_rows, read_rows
from trimode.pipeline.spec import JobSpec

NFE_LOGS = "nfe_group*/nfe_log.jsonl"


@dataclass(frozen=True, slots=True)
class _OtherLine:
    """A line in the log of another job."""

    group: int
    record: NfeRecord


class Ledger:
    """The nfe_log.jsonl of one job, held at one line per scored sample of its tasks."""

    def __init__(self, spec: JobSpec, paths: RunPaths) -> None:
        self._spec = spec
        self._paths = paths
        self.path = paths.nfe_log(spec.index)
        self._file: AppendFile | None = None

    def open(self) -> None:
        """Reconciles the log with the rows and opens it for appending."""
        self.reconcile()
        self._file = AppendFile(self.path)

    def append(self, record: NfeRecord) -> None:
        """Adds the line of a row that has just been written."""
        assert self._file is not None
        self._file.append(record.to_line())

    def sync(self) -> None:
        """Waits until every line is on the disk."""
        if self._file is not None:
            self._file.sync()

    def close(self) -> None:
        """Closes the log and removes lines of samples that were run again."""
        if self._file is not None:
            self._file.close()
            self._file = None
        self.reconcile()

    def reconcile(self) -> None:
        """Makes the log one line per row of this job's tasks; other benchmarks' lines and other jobs' logs stay."""
        cut_torn_line(self.path)
        own_log = read_nfe_log(self.path)
        own = {record.key: record for record in own_log}
        others = self._records_of_other_jobs()
        asked = {(task.benchmark, seed) for task in self._spec.tasks for seed in task.seeds}
        wanted = [record for record in own_log if (record.benchmark, record.seed) not in asked]
        for task in self._spec.tasks:
            for seed in task.seeds:
                rows = read_rows(self._paths, task.benchmark, seed)
                shared = rows.keys() - set(task.positions(num_rows(self._paths, task))) if task.chunk else set()
                for position in sorted(rows):
                    key = (task.benchmark, seed, position)
                    carried, other = _record_of(rows[position]), others.get(key)
                    if position in shared:  # another job's to log, unless only this one can
                        record = own.get(key) or (None if other else carried)
                    else:
                        record = carried or own.get(key)
                    if record is None or (other and self._says_it(other, record, key in own, position in shared)):
                        continue
                    wanted.append(record)
        if sorted(wanted, key=_line_order) != sorted(own_log, key=_line_order):
            write_text_atomic(self.path, "".join(record.to_line() for record in wanted))

    def _says_it(self, other: _OtherLine, record: NfeRecord, is_logged: bool, is_shared: bool) -> bool:
        """Whether another job's line makes this one superfluous; of two that say the same the lower group keeps it."""
        if other.record.error is None and (is_shared or record.error is not None):
            return True
        if is_shared and record.error is None:
            return False
        same = other.record == record or (is_shared and other.record.error is not None)
        return same and (not is_logged or other.group < self._spec.index)

    def _records_of_other_jobs(self) -> dict[tuple[str, int, int], _OtherLine]:
        """The lines of the other logs; of two with one key an answer, else the lower group's."""
        found: dict[tuple[str, int, int], _OtherLine] = {}
        groups = [int(log.parent.name.removeprefix("nfe_group")) for log in self._paths.run_dir.glob(NFE_LOGS)]
        for group in sorted(groups):
            if group == self._spec.index:
                continue
            for record in read_nfe_log(self._paths.nfe_log(group)):
                known = found.get(record.key)
                if known is None or (known.record.error is not None and record.error is None):
                    found[record.key] = _OtherLine(group, record)
        return found


def _record_of(row: Row) -> NfeRecord | None:
    record = row.get(LEDGER)
    return NfeRecord.from_json(record) if isinstance(record, dict) else None


def _line_order(record: NfeRecord) -> tuple[str, int, int, str]:
    return (*record.key, record.to_line())
