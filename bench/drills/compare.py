"""What a drilled sweep left, beside what the same sweep left undisturbed."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from trimode.core.files import whole_lines
from trimode.core.protocol import Row
from trimode.pipeline.run_folder.nfe import nfe_logs
from trimode.pipeline.run_folder.paths import RunPaths

TIMES = frozenset({"generation_start_time", "generation_end_time", "generation_time", "interleaved_eval_single_time_s"})
"""Keys of a row that hold times."""
LEDGER_TIMES = frozenset({"queue_s", "first_token_s", "total_s", "request_id", "continuations"})
"""Keys of a ledger line that differ from run to run. One of them says how often an answer went on after a death."""
VERDICTS = ("symbolic_correct", "is_correct", "predicted_answer", "scoring_error")
"""Keys of a row that hold its verdict, besides all that begin with `graded` or `passed`."""
CHANGING = re.compile(r"[0-9a-f]{12,}|[0-9]{5,}(_[0-9]+)*")
"""Parts of file names that differ from run to run: identities, attempts, job ids."""
EXPECTED = re.compile(r"(.*/)?(\.submitit/.*_log\.out|plan\.json|report\.(md|html)|\.[a-z]+\.lock)$")
"""Files that a sweep may leave more of than an undisturbed one: logs per run, reports, locks."""

Key = tuple[str, int, int]
"""Benchmark, number of the repeat, position."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What one run folder holds at the end."""

    rows: dict[Key, Row]
    """Rows without times."""
    ledger: dict[Key, Row]
    """Ledger lines without times."""
    doubled: int
    """Samples that stand in a file twice."""
    files: Counter[str]
    """Names of the files below the output folder, without what differs from run to run."""
    tokens: int
    forwards: int
    """Forwards that generated tokens: all but prefills."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A drilled sweep beside the reference: what the table counts."""

    lost: int
    doubled: int
    wrong_verdicts: int
    other_rows: int
    """Rows or ledger lines that differ in something else."""
    left_files: tuple[str, ...]
    details: tuple[str, ...] = field(default=())


def read_result(out_dir: Path, benchmarks: tuple[str, ...]) -> Result:
    """Reads the one run folder below an output folder."""
    [run_dir] = out_dir.glob("*/hf_base/eval_*")
    return read_run(run_dir, benchmarks, out_dir)


def read_run(run_dir: Path, benchmarks: tuple[str, ...], files_below: Path) -> Result:
    """Reads a run folder with all its repeats, and the names of the files below a folder."""
    paths = RunPaths(run_dir)
    rows: dict[Key, Row] = {}
    for benchmark in benchmarks:
        for output in paths.task_dir(benchmark).glob("output-rs*.jsonl"):
            seed = int(output.stem.removeprefix("output-rs"))
            for position, line in enumerate(whole_lines(output)):
                rows[benchmark, seed, position] = _without(json.loads(line), TIMES)
    problems = Counter(json.dumps([*key[:2], row.get("problem"), row.get("id")]) for key, row in rows.items())
    lines = [json.loads(line) for path in nfe_logs(run_dir) for line in whole_lines(path)]
    logged = Counter(_key(line) for line in lines)
    names = (str(path.relative_to(files_below)) for path in files_below.rglob("*") if path.is_file())
    return Result(
        rows=rows,
        ledger={_key(line): _without(line, LEDGER_TIMES) for line in lines},
        doubled=sum(count - 1 for count in (*problems.values(), *logged.values())),
        files=Counter(CHANGING.sub("*", name) for name in names),
        tokens=sum(line["completion_tokens"] for line in lines),
        forwards=sum(count for line in lines for kind, count in line["forwards"].items() if kind != "prefill"),
    )


def _key(line: Row) -> Key:
    """Returns the sample that a ledger line is of."""
    return line["benchmark"], line["seed"], line["sample_id"]


def difference(found: Result, reference: Result) -> Difference:
    """Returns how a drilled sweep differs from the undisturbed one."""
    lost = [key for key in reference.rows if key not in found.rows or key not in found.ledger]
    wrong, other, details = 0, 0, []
    for key in reference.rows.keys() & found.rows.keys():
        changed = _changed(found.rows[key], reference.rows[key])
        is_verdict = [name for name in changed if name in VERDICTS or name.startswith(("graded", "passed"))]
        wrong += bool(is_verdict)
        changed += [f"ledger {name}" for name in _changed(found.ledger.get(key, {}), reference.ledger[key])]
        other += bool(changed) and not is_verdict
        if changed:
            details.append(f"{_named(key)}: {', '.join(changed)}")
    left = found.files - reference.files
    return Difference(
        lost=len(lost),
        doubled=found.doubled - reference.doubled,
        wrong_verdicts=wrong,
        other_rows=other,
        left_files=tuple(sorted(name for name in left if not EXPECTED.match(name))),
        details=(*(f"lost {_named(key)}" for key in lost), *details),
    )


def _named(key: Key) -> str:
    return f"{key[0]} {key[2]}" + (f" of repeat {key[1]}" if key[1] else "")


def _without(row: Row, names: frozenset[str]) -> Row:
    return {key: value for key, value in row.items() if key not in names}


def _changed(found: Row, reference: Row) -> list[str]:
    return sorted(name for name in found.keys() | reference.keys() if found.get(name) != reference.get(name))
