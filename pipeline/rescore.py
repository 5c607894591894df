"""Scores existing generations again: `python -m trimode.pipeline.rescore DIR [--data-dir D]`.

Rewrites the verdict fields of every output*.jsonl below DIR in place, and the metrics.json beside it. As in
NeMo-Skills, a folder's name is its benchmark. Inside a run folder it is the folder's owner meanwhile, so no job writes
there. A row that holds no answer stays as it is and counts as one without an answer.
"""

from __future__ import annotations

import argparse
import codecs
import io
import json
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimode.core.command import UNREAD, run_command
from trimode.core.errors import USER_ERROR, ConfigError, guarded
from trimode.core.files import replacing, write_json_atomic
from trimode.core.protocol import Row
from trimode.pipeline.benchmarks import Benchmark, benchmark_names, load_benchmark
from trimode.pipeline.launch.owner import owning, run_folder_of
from trimode.pipeline.scoring import ScoringPool, check_scorer
from trimode.pipeline.scoring.metrics import compute_metrics
from trimode.pipeline.scoring.registry import SCORERS, scorer_of

TIMING = "interleaved_eval_single_time_s"
"""Seconds that scoring took; not part of the verdict."""
SCORING_ERROR = "scoring_error"
CHUNK = "_chunk_"
"""In the name of a part that NeMo-Skills has not merged: its rows are scored, but it does not count as a seed."""
EXAMPLES_SHOWN = 5
COUNTS = (
    *("num_generated_tokens", "num_reasoning_tokens", "num_answer_tokens"),
    *("generation_start_time", "generation_end_time"),
)
"""Keys of a row whose values metrics add up."""


@dataclass(frozen=True, slots=True)
class Rescored:
    """One file after scoring it again, not written yet."""

    path: Path
    lines: list[bytes]
    rows: list[Row]
    changes: list[str]
    """One line per row whose verdict changed."""
    num_without_generation: int
    """Rows left as they were because they hold nothing to score."""
    read_at: tuple[int, int]
    """Size and time of the file when it was read."""


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


def read_rows(path: Path) -> tuple[list[bytes], list[Row]]:
    """Returns the lines of a file, without a BOM, and their rows; a line of another JSON value has an empty row.

    Raises ConfigError naming a line that is no JSON.
    """
    # Nobody is writing the file, so a last line without a newline is a row as well.
    lines = [line for line in path.read_bytes().removeprefix(codecs.BOM_UTF8).split(b"\n") if line.strip()]
    return lines, [_row(line, path, number) for number, line in enumerate(lines, start=1)]


def _row(line: bytes, path: Path, number: int) -> Row:
    try:
        value = json.loads(line.decode(errors="replace"))
        json.dumps(value)  # a value that is nested too deeply can be read and yet not be written
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: line {number} is no JSON row: {error}") from error
    return value if isinstance(value, dict) else {}


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
    text = json.dumps(row[key], ensure_ascii=False).encode(errors="backslashreplace").decode()
    return text if len(text) <= 40 else text[:37] + "..."


def rescore_file(benchmark: Benchmark, path: Path, pool: ScoringPool) -> Rescored:
    """Scores every row of one file again. Rows whose verdict stays keep their bytes."""
    read_at = _written_at(path)
    lines, rows = read_rows(path)
    futures = {
        index: pool.submit(row) for index, row in enumerate(rows) if benchmark.generation_key in row or row.get("error")
    }
    changes = []
    for index, future in futures.items():
        new = with_verdict(rows[index], future.result())
        if new != rows[index]:
            changes.append(describe_change(index + 1, rows[index], new))
            lines[index] = _line(new, in_ascii=lines[index].isascii())
            rows[index] = new
    return Rescored(path, lines, rows, changes, len(rows) - len(futures), read_at)


def _line(row: Row, in_ascii: bool) -> bytes:
    text = json.dumps(row, ensure_ascii=in_ascii)
    try:
        return text.encode()
    except UnicodeEncodeError:  # half of a character, which only an escape can express
        return json.dumps(row).encode()


def _written_at(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def write(file: Rescored) -> None:
    """Rewrites a file whose verdicts changed. Raises ConfigError if another program has written it meanwhile."""
    if not file.changes:
        return
    if _written_at(file.path) != file.read_at:
        raise ConfigError(f"{file.path} was written by another program while it was scored again; it stays as it is")
    with replacing(file.path) as beside:
        beside.write_bytes(b"".join(line + b"\n" for line in file.lines))


def countable(benchmark: Benchmark, row: Row) -> Row:
    """Returns the row as metrics can count it: without damaged counts, and as no answer if its verdict is damaged."""
    kept = {key: value for key, value in row.items() if key not in COUNTS or _is_count(value)}
    facts = SCORERS[benchmark.scorer]
    try:
        points = [points for measure in facts.measures.values() for points in measure(kept).scored]
        answer = None if facts.answer_key is None else kept[facts.answer_key]
        if all(math.isfinite(value) for value in points) and (answer is None or isinstance(answer, str)):
            return kept
    except (LookupError, TypeError, ValueError, OverflowError):
        pass
    return {**kept, **scorer_of(benchmark).no_answer(benchmark, kept)}


def _is_count(value: object) -> bool:
    return isinstance(value, int | float) and 0 <= value < 2**53  # NaN is not


def counted_rows(files: Sequence[Rescored]) -> list[list[Row]]:
    """Returns the rows that all seeds have, by seed.

    A greedy output.jsonl does not count as a seed if sampled seeds stand beside it.
    """
    whole = [file for file in files if CHUNK not in file.path.name]
    seeds = [file.rows for file in whole if file.path.name != "output.jsonl"] or [file.rows for file in whole]
    count = min((len(rows) for rows in seeds), default=0)
    return [rows[:count] for rows in seeds]


def new_metrics(benchmark: Benchmark, files: Sequence[Rescored]) -> dict[str, Any]:
    """Returns the metrics over the rows that all seeds have; empty without rows."""
    seeds = counted_rows(files)
    if not any(seeds):
        return {}
    return dict(compute_metrics(benchmark, [[countable(benchmark, row) for row in rows] for rows in seeds]))


def new_counts(files: Sequence[Rescored]) -> dict[str, int]:
    """Returns how many rows have no answer, and how many answers could not be scored."""
    rows = [row for rows in counted_rows(files) for row in rows]
    return {
        "failed": sum(bool(row.get("error")) for row in rows),
        "unscored": sum(SCORING_ERROR in row for row in rows),
    }


def rewrite_metrics(benchmark: Benchmark, folder: Path, new: dict[str, Any], counts: dict[str, int]) -> str:
    """Writes metrics.json again and keeps keys that other programs wrote. Returns one line on the change.

    `counts` replace those of a run; the metrics of other programs have none.
    """
    if not new:
        return "metrics.json left as it is: no rows"
    path = folder / "metrics.json"
    try:
        old = json.loads(path.read_bytes().removeprefix(codecs.BOM_UTF8).decode(errors="replace"))
    except (FileNotFoundError, ValueError, RecursionError):
        old = {}
    old = old if isinstance(old, dict) else {}
    own = {key: value for key, value in old.items() if key != benchmark.name and not _is_subset(benchmark, key, value)}
    own |= {key: count for key, count in counts.items() if key in own}
    write_json_atomic(path, new | own)
    before, after = (_headline(benchmark, values) for values in (old, new))
    return f"metrics.json: {benchmark.metric} " + (after if before == after else f"{before} -> {after}")


def _is_subset(benchmark: Benchmark, key: str, value: object) -> bool:
    return key.startswith(f"{benchmark.name}-") and isinstance(value, dict)


def _headline(benchmark: Benchmark, metrics: dict[str, Any]) -> str:
    value: object = metrics
    for key in (benchmark.name, "pass@1", benchmark.metric):
        value = value.get(key) if isinstance(value, dict) else None
    return f"{value:.2f} %" if isinstance(value, int | float) else "(none)"


def rescore_folder(folder: Path, paths: Sequence[Path], data_dir: Path | None, num_processes: int) -> None:
    """Scores one benchmark folder again and prints the changes. Raises ConfigError if it cannot be scored here."""
    benchmark = load_benchmark(folder.name)
    check_scorer(benchmark, data_dir)
    with ScoringPool(benchmark, data_dir, num_processes) as pool:
        files = [rescore_file(benchmark, path, pool) for path in paths]
    metrics = new_metrics(benchmark, files)  # before anything is written
    for file in files:
        write(file)
    rewritten = rewrite_metrics(benchmark, folder, metrics, new_counts(files))
    for file in files:  # after all is written: a reader of the output may leave
        print(f"{file.path}: {len(file.rows)} rows, {len(file.changes)} verdicts changed")
        if missing := file.num_without_generation:
            print(f"  {missing} rows have no {benchmark.generation_key!r} and are left as they are: no answer")
        for line in file.changes[:EXAMPLES_SHOWN]:
            print(f"  {line}")
        if len(file.changes) > EXAMPLES_SHOWN:
            print(f"  and {len(file.changes) - EXAMPLES_SHOWN} more")
        if unscored := [index for index, row in enumerate(file.rows, start=1) if SCORING_ERROR in row]:
            print(
                f"  could not be scored: rows {', '.join(map(str, unscored[:EXAMPLES_SHOWN]))} ({len(unscored)} in all)"
            )
    print(f"{folder}: {rewritten}", flush=True)


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
    parser.add_argument(
        "--take-over", action="store_true", help="score in a run folder whose owner cannot be asked if it still runs"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Scores every benchmark folder, also after one could not be; returns 0, or 2 when the user must act on one."""
    return guarded(lambda: run_rescore(_parser().parse_args(argv)))


def run_rescore(options: argparse.Namespace) -> int:
    """Everything after parsing; returns the exit status. Raises ConfigError when there is nothing to score."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names and rows may hold what the terminal lacks
    outputs = find_outputs(options.folder)
    if options.num_processes < 1:
        raise ConfigError(f"--num-processes must be at least 1; got {options.num_processes}")
    failed = False
    for folder, paths in outputs.items():
        if folder.name not in benchmark_names():
            print(f"note: {folder} is left out: {folder.name!r} is no benchmark", file=sys.stderr)
            continue
        try:
            with owning(run_folder_of(folder), options.take_over):
                rescore_folder(folder, paths, options.data_dir, options.num_processes)
        except ConfigError as error:
            failed = True
            print(f"error: {folder}: {error}", file=sys.stderr)
    return USER_ERROR if failed else 0


if __name__ == "__main__":
    run_command(main, unfinished=UNREAD)
