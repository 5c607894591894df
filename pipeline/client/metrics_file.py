"""Writes a benchmark's metrics.json from its finished seeds, and checks that it covers what was asked."""

from __future__ import annotations

import json

from trimode.core.errors import WorkerError
from trimode.core.files import write_json_atomic
from trimode.core.protocol import Row
from trimode.pipeline.benchmarks import load_benchmark
from trimode.pipeline.run_folder.nfe import read_run_ledger, summarize
from trimode.pipeline.run_folder.paths import RunPaths
from trimode.pipeline.run_folder.rows import SCORING_ERROR, is_infrastructure_failure, read_output
from trimode.pipeline.scoring.metrics import compute_metrics
from trimode.pipeline.spec import TaskSpec

ROW_ERRORS = (LookupError, TypeError, ValueError, ArithmeticError)
"""What counting a damaged row raises."""


class UnansweredError(WorkerError):
    """Every sample was asked, but too many have no answer: the job is not finished and has no metrics."""


class RefusedError(UnansweredError):
    """Every sample of a benchmark was refused. Asking again would not help."""


def share_problem(num_failed: int, num_asked: int, largest_share: float) -> str | None:
    """Returns why a benchmark is not finished if a larger share than allowed has no answer; None if it is not."""
    if num_failed <= largest_share * num_asked:
        return None
    return (
        f"{num_failed} of {num_asked} samples have no answer because the infrastructure failed "
        f"({num_failed / num_asked:.2%}); valid: up to {largest_share:.2%} (client.max_failed_share). "
        "The same command asks them again"
    )


def write_metrics(paths: RunPaths, task: TaskSpec, rows_asked: int, max_failed_share: float = 0.0) -> None:
    """Writes a benchmark's metrics.json from its finished seeds, over the rows that all seeds have.

    Raises WorkerError if the file would not cover what was asked, and UnansweredError if more than `max_failed_share`
    of the samples failed because of the infrastructure, RefusedError if no sample has an answer. An earlier file is
    removed then.
    """
    seeds = [read_output(paths, task.benchmark, seed) for seed in task.seeds]
    count = min(len(rows) for rows in seeds)
    if count < rows_asked:
        raise WorkerError(f"{task.benchmark}: {count} finished rows, {rows_asked} asked")
    rows = [row for rows in seeds for row in rows[:count]]
    num_failed = sum(map(is_infrastructure_failure, rows))
    problem = share_problem(num_failed, len(rows), max_failed_share)
    if problem is not None:
        paths.metrics(task.benchmark).unlink(missing_ok=True)
        raise UnansweredError(problem)
    if all(row.get("error") for row in rows):
        paths.metrics(task.benchmark).unlink(missing_ok=True)
        raise RefusedError(
            f"none of {len(rows)} samples has an answer; the first: {rows[0]['error']}. All were refused, so asking "
            "again would not help: change the settings or the data, or start over with --fresh"
        )
    metrics = _metrics(paths, task, [rows[:count] for rows in seeds])
    ledger = read_run_ledger(paths.run_dir)
    records = [ledger.get((task.benchmark, seed, position)) for seed in task.seeds for position in range(count)]
    metrics |= summarize(record for record in records if record is not None)
    metrics["failed"] = sum(bool(row.get("error")) for row in rows)
    metrics["unscored"] = sum(SCORING_ERROR in row for row in rows)
    write_json_atomic(paths.metrics(task.benchmark), metrics)


def _metrics(paths: RunPaths, task: TaskSpec, seeds: list[list[Row]]) -> dict[str, object]:
    """Returns the metrics of the rows. Raises WorkerError naming the row that cannot be counted."""
    benchmark = load_benchmark(task.benchmark)
    try:
        return dict(compute_metrics(benchmark, seeds))
    except ROW_ERRORS:
        for seed, rows in zip(task.seeds, seeds, strict=True):
            for number, row in enumerate(rows, 1):
                try:
                    compute_metrics(benchmark, [[row]])
                except ROW_ERRORS as error:
                    raise WorkerError(
                        f"{paths.output(task.benchmark, seed)}: line {number} is damaged and cannot be counted: "
                        f"{type(error).__name__}: {error}; valid: restore the row, or a new folder (--fresh)"
                    ) from error
        raise


def check_metrics(paths: RunPaths, task: TaskSpec, rows_asked: int) -> None:
    """Raises WorkerError unless metrics.json is there and each of its entries counts at least the samples asked."""
    path = paths.metrics(task.benchmark)
    if not path.exists():
        raise WorkerError(f"{path} was not written")
    entries = json.loads(path.read_text(encoding="utf-8")).get(task.benchmark, {})
    counts = {name: values.get("num_entries") for name, values in entries.items()}
    if not counts or any(count is None or count < rows_asked for count in counts.values()):
        raise WorkerError(f"{path} counts {counts} entries; asked: {rows_asked}")
