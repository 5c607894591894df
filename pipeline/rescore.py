"""Scores existing generations again: `python -m trimode.pipeline.rescore DIR [--data-dir D]`.

Rewrites the verdict fields of every output*.jsonl below DIR in place, and the metrics.json beside it. As in
NeMo-Skills, a folder's name is its benchmark.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimode.core.errors import USER_ERROR, ConfigError, guarded
from trimode.core.files import write_json_atomic, write_text_atomic
from trimode.core.protocol import Row
from trimode.pipeline.benchmarks import Benchmark, benchmark_names, load_benchmark
from trimode.pipeline.run_folder.rows import parse_row
from trimode.pipeline.scoring import ScoringPool, check_scorer
from trimode.pipeline.scoring.metrics import compute_metrics

TIMING = "interleaved_eval_single_time_s"
"""Seconds that scoring took; not part of the verdict."""
SCORING_ERROR = "scoring_error"
CHUNK = "_chunk_"
"""In the name of a part that NeMo-Skills has not merged: its rows are scored, but it does not count as a seed."""
EXAMPLES_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Rescored:
    """One file after scoring it again."""

    path: Path
    rows: list[Row]
    changes: list[str]
    """One line per row whose verdict changed."""
    num_without_generation: int
    """Rows left as they were because they hold nothing to score."""


def find_outputs(folder: Path) -> dict[Path, list[Path]]:
    """Returns the sorted output*.jsonl of each benchmark folder. Raises ConfigError if none is below `folder`."""
    if not folder.is_dir():
        raise ConfigError(f"{folder} is no folder; needed: one at or above NeMo-Skills outputs")
    found: dict[Path, list[Path]] = {}
    for path in sorted(folder.resolve().rglob("output*.jsonl")):
        found.setdefault(path.parent, []).append(path)
    if not found:
        raise ConfigError(f"{folder} holds no output*.jsonl; needed: a folder at or above NeMo-Skills outputs")
    return found


def read_rows(path: Path) -> tuple[list[str], list[Row]]:
    """Returns the lines of a file and their rows. Raises ConfigError naming a line that is no row."""
    # Nobody is writing the file, so a last line without a newline is a row as well.
    lines = [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    return lines, [parse_row(line, path, number) for number, line in enumerate(lines, start=1)]


def with_verdict(row: Row, verdict: Row) -> Row:
    """Returns `row` with the new verdict: fields replaced in place, new ones last, an old scoring error removed."""
    kept = {key: value for key, value in row.items() if key != SCORING_ERROR or key in verdict}
    return {**kept, **{key: value for key, value in verdict.items() if key != TIMING}}


def describe_change(number: int, before: Row, after: Row) -> str:
    """Returns one line on the changed fields; long values are cut."""
    keys = [
        key for key in {**before, **after} if before.get(key) != after.get(key) or (key in before) != (key in after)
    ]
    parts = [f"{key} {_short(before, key)} -> {_short(after, key)}" for key in keys]
    return f"row {number}: " + ", ".join(parts)


def _short(row: Row, key: str) -> str:
    if key not in row:
        return "(none)"
    text = json.dumps(row[key], ensure_ascii=False)
    return text if len(text) <= 40 else text[:37] + "..."


def rescore_file(benchmark: Benchmark, path: Path, pool: ScoringPool) -> Rescored:
    """Scores every row of one file again and rewrites it when a verdict changed; untouched rows keep their bytes."""
    lines, rows = read_rows(path)
    futures = {
        index: pool.submit(row) for index, row in enumerate(rows) if benchmark.generation_key in row or row.get("error")
    }
    changes = []
    for index, future in futures.items():
        new = with_verdict(rows[index], future.result())
        if new != rows[index]:
            changes.append(describe_change(index + 1, rows[index], new))
            lines[index] = json.dumps(new, ensure_ascii=lines[index].isascii())
            rows[index] = new
    if changes:
        write_text_atomic(path, "".join(line + "\n" for line in lines))
    return Rescored(path, rows, changes, len(rows) - len(futures))


def rewrite_metrics(benchmark: Benchmark, folder: Path, files: Sequence[Rescored]) -> str:
    """Writes metrics.json again over the rows that all seeds have and keeps keys that other programs wrote.

    Returns one line on the change. A greedy output.jsonl does not count as a seed if sampled seeds stand beside it.
    """
    whole = [file for file in files if CHUNK not in file.path.name]
    seeds = [file.rows for file in whole if file.path.name != "output.jsonl"] or [file.rows for file in whole]
    count = min((len(rows) for rows in seeds), default=0)
    if count == 0:
        return "metrics.json left as it is: no rows"
    path = folder / "metrics.json"
    try:
        old = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except json.JSONDecodeError:
        old = {}
    new: dict[str, Any] = dict(compute_metrics(benchmark, [rows[:count] for rows in seeds]))
    own = {key: value for key, value in old.items() if key != benchmark.name and not _is_subset(benchmark, key, value)}
    write_json_atomic(path, new | own)
    before, after = (_headline(benchmark, values) for values in (old, new))
    return (
        f"metrics.json: {benchmark.metric} {after}"
        if before == after
        else (f"metrics.json: {benchmark.metric} {before} -> {after}")
    )


def _is_subset(benchmark: Benchmark, key: str, value: object) -> bool:
    return key.startswith(f"{benchmark.name}-") and isinstance(value, dict)


def _headline(benchmark: Benchmark, metrics: dict[str, Any]) -> str:
    value = metrics.get(benchmark.name, {}).get("pass@1", {}).get(benchmark.metric)
    return "(none)" if value is None else f"{value:.2f} %"


def rescore_folder(folder: Path, paths: Sequence[Path], data_dir: Path | None, num_processes: int) -> None:
    """Scores one benchmark folder again and prints the changes. Raises ConfigError if it cannot be scored here."""
    benchmark = load_benchmark(folder.name)
    check_scorer(benchmark, data_dir)
    with ScoringPool(benchmark, data_dir, num_processes) as pool:
        files = [rescore_file(benchmark, path, pool) for path in paths]
    for file in files:
        print(f"{file.path}: {len(file.rows)} rows, {len(file.changes)} verdicts changed")
        if file.num_without_generation:
            print(f"  {file.num_without_generation} rows have no {benchmark.generation_key!r} and are left as they are")
        for line in file.changes[:EXAMPLES_SHOWN]:
            print(f"  {line}")
        if len(file.changes) > EXAMPLES_SHOWN:
            print(f"  and {len(file.changes) - EXAMPLES_SHOWN} more")
        unscored = [index for index, row in enumerate(file.rows, start=1) if SCORING_ERROR in row]
        if unscored:
            print(
                f"  could not be scored: rows {', '.join(map(str, unscored[:EXAMPLES_SHOWN]))} ({len(unscored)} in all)"
            )
    print(f"{folder}: {rewrite_metrics(benchmark, folder, files)}", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m trimode.pipeline.rescore", description="Score existing generations again, without a model."
    )
    parser.add_argument("folder", metavar="DIR", type=Path, help="any folder at or above output*.jsonl files")
    parser.add_argument(
        "--data-dir", type=Path, help="data folder (default: $TRIMODE_DATA_DIR, else ~/.cache/trimode/data)"
    )
    parser.add_argument(
        "--num-processes", type=int, default=os.cpu_count() or 1, help="scoring processes (default: the cores)"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Scores every benchmark folder, also after one could not be; returns 0, or 2 when the user must act on one."""
    options = _parser().parse_args(argv)
    return guarded(lambda: run_rescore(options))


def run_rescore(options: argparse.Namespace) -> int:
    """Everything after parsing; returns the exit status. Raises ConfigError when there is nothing to score."""
    outputs = find_outputs(options.folder)
    if options.num_processes < 1:
        raise ConfigError(f"--num-processes must be at least 1; got {options.num_processes}")
    failed = False
    for folder, paths in outputs.items():
        if folder.name not in benchmark_names():
            print(f"note: {folder} is left out: {folder.name!r} is no benchmark", file=sys.stderr)
            continue
        try:
            rescore_folder(folder, paths, options.data_dir, options.num_processes)
        except ConfigError as error:
            failed = True
            print(f"error: {folder}: {error}", file=sys.stderr)
    return USER_ERROR if failed else 0


if __name__ == "__main__":
    sys.exit(main())
