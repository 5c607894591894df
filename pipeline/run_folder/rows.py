"""Reads the rows of a run folder: the one reader of row lines, and the one rule of which row of a position counts."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from trimode.core.errors import ConfigError
from trimode.core.files import whole_lines
from trimode.core.protocol import NEVER_SCORED, Row
from trimode.pipeline.run_folder.nfe import NfeRecord
from trimode.pipeline.run_folder.paths import RunPaths
from trimode.pipeline.spec import JobSpec, TaskSpec

K = TypeVar("K", bound=Hashable)

POSITION = "_async_position"
"""Key of an -async row: its index in the split."""
LEDGER = "_nfe"
"""Key of an -async row: its whole nfe_log record, from which the log is rebuilt after a kill."""
ERROR_KIND = "error_kind"
"""Key of a failed row: `infrastructure` (tried again by a repeated command) or `request` (final)."""
INFRASTRUCTURE = "infrastructure"
SCORING_ERROR = "scoring_error"
"""Key of a row that could not be scored: why. A repeated command scores it again and does not ask again."""
UNSCORED = "_unscored"
"""Key of an -async row with an answer that is still to be scored. The row with its verdict follows, unless a kill comes
first: then a repeated command scores it and does not ask again. Only `read_seed` and `read_unscored_rows` see it."""


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
    if notes is not None:
        yield from (row for _, row in placed_lines(path, notes))
        return
    for number, line in enumerate(whole_lines(path), 1):
        yield parse_row(line, path, number)


def placed_lines(path: Path, notes: list[str]) -> Iterator[tuple[int, Row]]:
    """Yields index and row of every line that can be read, as the tolerant `read_lines`.

    A damaged line keeps its index, so the rows after it stay with their own samples. Blank lines have no index.
    """
    index = -1
    try:
        with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                index += 1
                try:
                    yield index, parse_row(line, path, number)
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


def read_async(paths: RunPaths, benchmark: str, seed: int, unscored: bool = False) -> dict[int, Row]:
    """Returns the arrived rows of a seed by position, with `_nfe`, those of all jobs that share the benchmark.

    `unscored`: also rows that are still to be scored.
    """
    rows: dict[int, Row] = {}
    for path in paths.outputs_async(benchmark, seed):
        for number, row in enumerate(read_lines(path), 1):
            position = row.pop(POSITION, None)
            try:
                if type(position) is not int or position < 0:
                    raise TypeError(f"{POSITION} is a row's index: got {position!r}")
                if isinstance(record := row.get(LEDGER), dict):
                    NfeRecord.from_json(record)
            except TypeError as error:
                raise ConfigError(
                    f"{path}: line {number} is no arrived row: {error}; valid: restore or remove it"
                ) from error
            if unscored or UNSCORED not in row:
                add_row(rows, position, row)
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


def read_unscored_rows(paths: RunPaths, benchmark: str, seed: int, positions: set[int]) -> dict[int, Row]:
    """Returns the rows at some positions, to be scored: without what an -async row carries."""
    newer = read_async(paths, benchmark, seed, unscored=True)
    rows = merge_rows(read_output(paths, benchmark, seed), newer)
    carried = (LEDGER, UNSCORED)
    return {position: {k: v for k, v in rows[position].items() if k not in carried} for position in sorted(positions)}


@dataclass(slots=True)
class SeedState:
    """What the files of one seed hold, without the rows themselves."""

    finished: set[int] = field(default_factory=set)
    """Positions that need not be asked again."""
    stored: set[int] = field(default_factory=set)
    """Positions that have a row."""
    carried: dict[int, NfeRecord] = field(default_factory=dict)
    """Ledger records that -async rows carry, by position."""
    unscored: set[int] = field(default_factory=set)
    """Finished positions whose row could not be scored, and may be when it is tried again."""
    never_scored: set[int] = field(default_factory=set)
    """Finished positions whose row no scorer can judge, however often it is tried."""


def read_seed(paths: RunPaths, benchmark: str, seed: int) -> SeedState:
    """Reads every file of a seed once."""
    newer = read_async(paths, benchmark, seed, unscored=True)
    retry = f'"{ERROR_KIND}": "{INFRASTRUCTURE}"'
    state = SeedState()
    for position, line in enumerate(whole_lines(paths.output(benchmark, seed))):
        # Only a line with one of these texts can be a failure. Parsing every line would cost too much.
        marked = retry in line or f'"{SCORING_ERROR}"' in line
        _note(state, position, parse_row(line, paths.output(benchmark, seed), position + 1) if marked else {})
    for position, row in newer.items():
        if is_infrastructure_failure(row) and position in state.finished:
            continue  # the answer in the finished file counts
        _note(state, position, row)
        if isinstance(record := row.get(LEDGER), dict):
            state.carried[position] = NfeRecord.from_json(record)
    return state


def _note(state: SeedState, position: int, row: Row) -> None:
    """Adds what the row of a position says. A later row of the position replaces an earlier one."""
    state.stored.add(position)
    state.unscored.discard(position)
    state.never_scored.discard(position)
    if is_infrastructure_failure(row):
        return
    state.finished.add(position)
    if SCORING_ERROR in row or UNSCORED in row:
        never = str(row.get(SCORING_ERROR, "")).startswith(NEVER_SCORED)
        (state.never_scored if never else state.unscored).add(position)


def read_unscored(spec: JobSpec, paths: RunPaths) -> Iterator[tuple[str, int, int, str]]:
    """Yields benchmark, seed, position and reason of every row of a job's benchmarks that could not be scored."""
    for task in spec.tasks:
        for seed in task.seeds:
            state = read_seed(paths, task.benchmark, seed)
            if state.unscored or state.never_scored:
                for position, row in sorted(read_rows(paths, task.benchmark, seed).items()):
                    if SCORING_ERROR in row:
                        yield task.benchmark, seed, position, str(row[SCORING_ERROR])


def finished_positions(paths: RunPaths, benchmark: str, seed: int) -> set[int]:
    """Returns the positions of a seed that need not be asked again."""
    return read_seed(paths, benchmark, seed).finished


def num_rows(paths: RunPaths, task: TaskSpec) -> int:
    """Returns how many rows the task asks for: its limit, at most the rows that an earlier run found in the data."""
    return rows_asked(task, read_manifest(paths.manifest))


def read_manifest(path: Path) -> Row:
    """Returns the content of a manifest.json; empty if there is none. Raises ConfigError if it is damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read: {error}; valid: restore it, or a new folder (--fresh)") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path} is no manifest: got {type(value).__name__}; valid: an object")
    return value


def rows_asked(task: TaskSpec, manifest: Row) -> int:
    """Returns how many rows the task asks for, from a manifest that may be empty or damaged.

    The data that a run found counts, not the size of the published split.
    """
    facts: object = manifest
    for name in ("data", task.benchmark, "num_rows"):
        facts = facts.get(name) if isinstance(facts, dict) else None
    known = facts if isinstance(facts, int) else task.num_samples
    return known if task.limit is None else min(task.limit, known)
