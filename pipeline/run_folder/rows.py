"""Reads the rows of a run folder: the one reader of row lines, and the one rule of which row of a position counts."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from trimode.core.errors import ConfigError
from trimode.core.files import whole_lines
from trimode.core.protocol import Row
from trimode.pipeline.run_folder.nfe import NfeRecord
from trimode.pipeline.run_folder.paths import RunPaths
from trimode.pipeline.spec import TaskSpec

K = TypeVar("K", bound=Hashable)

POSITION = "_async_position"
"""Key of an -async row: its index in the split."""
LEDGER = "_nfe"
"""Key of an -async row: its whole nfe_log record, from which the log is rebuilt after a kill."""
ERROR_KIND = "error_kind"
"""Key of a failed row: `infrastructure` (tried again by a repeated command) or `request` (final)."""
INFRASTRUCTURE = "infrastructure"


def parse_row(line: str, path: Path, number: int) -> Row:
    """Returns the row in one line of a file. Raises ConfigError naming the line if it is not a JSON object."""
    try:
        row = json.loads(line.removeprefix("\ufeff"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: line {number} is no JSON row: {error}") from error
    if not isinstance(row, dict):
        raise ConfigError(f"{path}: line {number} is no JSON row: got {type(row).__name__}; valid: an object")
    return row


def read_lines(path: Path, notes: list[str] | None = None) -> Iterator[Row]:
    """Yields the rows of a file in order; a missing file has none.

    Without `notes` the reader is strict: a damaged line raises ConfigError, and a last line without a newline is left
    out, because its writer is still at it or was killed. With `notes` it is tolerant: damaged lines and files are left
    out, each with a note.
    """
    if notes is None:
        for number, line in enumerate(whole_lines(path), 1):
            yield parse_row(line, path, number)
        return
    try:
        with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    yield parse_row(line, path, number)
                except ConfigError:
                    notes.append(f"{path}, line {number}: torn, left out")
    except OSError as error:
        notes.append(f"{path} cannot be read: {error}")


def is_infrastructure_failure(row: Row) -> bool:
    """True if the row has no answer because the infrastructure failed; a repeated command asks it again."""
    return row.get(ERROR_KIND) == INFRASTRUCTURE


def add_row(rows: dict[K, Row], key: K, row: Row) -> bool:
    """Adds a newer row by the one rule: the last row wins, but an infrastructure failure never over an answer.

    Returns True if `row` is the one that counts now.
    """
    if key in rows and is_infrastructure_failure(row) and not is_infrastructure_failure(rows[key]):
        return False
    rows[key] = row
    return True


def read_output(paths: RunPaths, benchmark: str, seed: int) -> list[Row]:
    """Returns the finished, ordered rows of a seed; position = index."""
    return list(read_lines(paths.output(benchmark, seed)))


def read_async(paths: RunPaths, benchmark: str, seed: int) -> dict[int, Row]:
    """Returns the arrived rows of a seed by position, with `_nfe`, those of all jobs that share the benchmark."""
    rows: dict[int, Row] = {}
    for path in paths.outputs_async(benchmark, seed):
        for row in read_lines(path):
            add_row(rows, int(row.pop(POSITION)), row)
    return rows


def merge_rows(finished: list[Row], newer: dict[int, Row]) -> dict[int, Row]:
    """Returns the rows of a seed by position: those of its finished file, then the newer ones."""
    rows = dict(enumerate(finished))
    for position, row in newer.items():
        add_row(rows, position, row)
    return rows


def read_rows(paths: RunPaths, benchmark: str, seed: int) -> dict[int, Row]:
    """Returns every scored row of a seed by position, from the finished file and the newer -async files."""
    # In this order, because a job that merges removes -async files only after the finished file is in place.
    newer = read_async(paths, benchmark, seed)
    return merge_rows(read_output(paths, benchmark, seed), newer)


@dataclass(slots=True)
class SeedState:
    """What the files of one seed hold, without the rows themselves."""

    finished: set[int] = field(default_factory=set)
    """Positions that need not be asked again."""
    stored: set[int] = field(default_factory=set)
    """Positions that have a row."""
    carried: dict[int, NfeRecord] = field(default_factory=dict)
    """Ledger records that -async rows carry, by position."""


def read_seed(paths: RunPaths, benchmark: str, seed: int) -> SeedState:
    """Reads every file of a seed once."""
    newer = read_async(paths, benchmark, seed)
    retry = f'"{ERROR_KIND}": "{INFRASTRUCTURE}"'
    state = SeedState()
    for position, line in enumerate(whole_lines(paths.output(benchmark, seed))):
        state.stored.add(position)
        if retry not in line:  # the marker can stand in an answer only with its quotes escaped
            state.finished.add(position)
    for position, row in newer.items():
        state.stored.add(position)
        if not is_infrastructure_failure(row):
            state.finished.add(position)
        elif position in state.finished:
            continue  # the answer in the finished file counts
        if isinstance(record := row.get(LEDGER), dict):
            state.carried[position] = NfeRecord.from_json(record)
    return state


def finished_positions(paths: RunPaths, benchmark: str, seed: int) -> set[int]:
    """Returns the positions of a seed that need not be asked again."""
    return read_seed(paths, benchmark, seed).finished


def num_rows(paths: RunPaths, task: TaskSpec) -> int:
    """Returns how many rows the task asks for: its limit, at most the rows that an earlier run found in the data."""
    known = task.num_samples
    if paths.manifest.exists():
        data = json.loads(paths.manifest.read_text(encoding="utf-8")).get("data", {})
        known = data.get(task.benchmark, {}).get("num_rows", known)
    return known if task.limit is None else min(task.limit, known)
