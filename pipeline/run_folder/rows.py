"""Reads the rows of a run folder: finished files, rows in order of arrival, and the rule that joins them."""

from __future__ import annotations

import json

from trimode.core.files import whole_lines
from trimode.pipeline.run_folder.paths import RunPaths
from trimode.pipeline.spec import TaskSpec

Row = dict[str, object]
POSITION = "_async_position"
"""Key of an -async row: its index in the split."""
LEDGER = "_nfe"
"""Key of an -async row: its whole nfe_log record, from which the log is rebuilt after a kill."""
ERROR_KIND = "error_kind"
"""Key of a failed row: `infrastructure` (tried again by a repeated command) or `request` (final)."""
INFRASTRUCTURE = "infrastructure"


def read_output(paths: RunPaths, benchmark: str, seed: int) -> list[Row]:
    """The finished, ordered rows of a seed; position = index."""
    return [json.loads(line) for line in whole_lines(paths.output(benchmark, seed))]


def read_async(paths: RunPaths, benchmark: str, seed: int) -> dict[int, Row]:
    """Rows of an unfinished seed by position, `_nfe` kept, those of chunks included.

    The last row of a position wins, but a row without an answer for want of infrastructure never over one with.
    """
    rows: dict[int, Row] = {}
    for path in paths.outputs_async(benchmark, seed):
        for line in whole_lines(path):
            row: Row = json.loads(line)
            position = row.pop(POSITION)
            assert isinstance(position, int)
            if position not in rows or row.get(ERROR_KIND) != INFRASTRUCTURE:
                rows[position] = row
    return rows


def read_rows(paths: RunPaths, benchmark: str, seed: int) -> dict[int, Row]:
    """Every scored row of a seed by position, from both files; the -async file holds the newer ones."""
    # In this order: what another job has just put into the finished file leaves the -async files only after that.
    newer = read_async(paths, benchmark, seed)
    return dict(enumerate(read_output(paths, benchmark, seed))) | newer


def finished_positions(paths: RunPaths, benchmark: str, seed: int) -> set[int]:
    """Positions of a seed that need not be asked again."""
    retry = f'"{ERROR_KIND}": "{INFRASTRUCTURE}"'
    newer = read_async(paths, benchmark, seed)
    finished = {
        index for index, line in enumerate(whole_lines(paths.output(benchmark, seed))) if retry not in line
    }  # the marker can stand in an answer only with its quotes escaped
    for position, row in newer.items():
        if row.get(ERROR_KIND) == INFRASTRUCTURE:
            finished.discard(position)
        else:
            finished.add(position)
    return finished


def num_rows(paths: RunPaths, task: TaskSpec) -> int:
    """Rows this task asks for: the limit, or the split, as far as the data reached in an earlier run (manifest)."""
    known = task.num_samples
    if paths.manifest.exists():
        data = json.loads(paths.manifest.read_text(encoding="utf-8")).get("data", {})
        known = data.get(task.benchmark, {}).get("num_rows", known)
    return known if task.limit is None else min(task.limit, known)
