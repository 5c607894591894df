"""Writes a benchmark's metrics.json from its finished seeds, and checks that it covers what was asked."""

from __future__ import annotations

import json

from trimode.core.errors import WorkerError
from trimode.core.files import write_json_atomic
from trimode.pipeline.benchmarks import load_benchmark
from trimode.pipeline.run_folder.nfe import read_run_ledger, summarize
from trimode.pipeline.run_folder.paths import RunPaths
from trimode.pipeline.run_folder.rows import read_output
from trimode.pipeline.scoring.metrics import compute_metrics
from trimode.pipeline.spec import TaskSpec


def write_metrics(paths: RunPaths, task: TaskSpec, rows_asked: int) -> None:
    """Writes a benchmark's metrics.json from its finished seeds, over the rows that all seeds have.

    Raises WorkerError if the file would not cover what was asked.
    """
    seeds = [read_output(paths, task.benchmark, seed) for seed in task.seeds]
    count = min(len(rows) for rows in seeds)
    if count < rows_asked:
        raise WorkerError(f"{task.benchmark}: {count} finished rows, {rows_asked} asked")
    metrics: dict[str, object] = dict(compute_metrics(load_benchmark(task.benchmark), [rows[:count] for rows in seeds]))
    ledger = read_run_ledger(paths.run_dir)
    records = [ledger.get((task.benchmark, seed, position)) for seed in task.seeds for position in range(count)]
    metrics |= summarize(record for record in records if record is not None)
    write_json_atomic(paths.metrics(task.benchmark), metrics)


def check_metrics(paths: RunPaths, task: TaskSpec, rows_asked: int) -> None:
    """Raises WorkerError unless metrics.json is there and each of its entries counts at least the samples asked."""
    path = paths.metrics(task.benchmark)
    if not path.exists():
        raise WorkerError(f"{path} was not written")
    entries = json.loads(path.read_text(encoding="utf-8")).get(task.benchmark, {})
    counts = {name: values.get("num_entries") for name, values in entries.items()}
    if not counts or any(count is None or count < rows_asked for count in counts.values()):
        raise WorkerError(f"{path} counts {counts} entries; asked: {rows_asked}")
