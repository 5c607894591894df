"""Finds out which samples a repeated command still has to run, from the files of a run folder alone.

A sample that failed because the infrastructure did (`error_kind` "infrastructure") counts as unfinished: the same
command tries it again. A sample that the server refused (4xx) is finished. A row that could not be scored is not asked
again, but its job is not finished: the same command scores it again.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from trimode.core.files import whole_lines
from trimode.pipeline.run_folder.paths import RunPaths
from trimode.pipeline.run_folder.rows import finished_positions, num_rows, read_async, read_seed
from trimode.pipeline.spec import JobSpec, TaskSpec


def remaining(spec: JobSpec) -> dict[tuple[str, int], int]:
    """Returns the number of samples still to run per (benchmark, seed) of the job; 0 = that seed is finished."""
    paths = RunPaths(Path(spec.run_dir))
    left: dict[tuple[str, int], int] = {}
    for task in spec.tasks:
        rows = num_rows(paths, task)
        for seed in task.seeds:
            finished = finished_positions(paths, task.benchmark, seed)
            left[task.benchmark, seed] = sum(position not in finished for position in task.positions(rows))
    return left


def is_finished(spec: JobSpec) -> bool:
    """True if no sample of the job is left and every benchmark that no other job still runs has its metrics."""
    paths = RunPaths(Path(spec.run_dir))
    if any(remaining(spec).values()) or _has_unscored(spec, paths):
        return False
    whole = replace(spec, tasks=tuple(replace(task, chunk=None) for task in spec.tasks))
    others = remaining(whole)  # of jobs that share these benchmarks: the last one to finish merges and writes metrics
    return all(
        any(others[task.benchmark, seed] for seed in task.seeds)
        or (paths.metrics(task.benchmark).exists() and is_merged(paths, task, num_rows(paths, task)))
        for task in spec.tasks
    )


def _has_unscored(spec: JobSpec, paths: RunPaths) -> bool:
    return any(
        not read_seed(paths, task.benchmark, seed).unscored.isdisjoint(task.positions(num_rows(paths, task)))
        for task in spec.tasks
        for seed in task.seeds
    )


def is_merged(paths: RunPaths, task: TaskSpec, rows_asked: int) -> bool:
    """True if the finished file of every seed holds all requested rows and no newer row is pending."""
    return all(
        not any(position < rows_asked for position in read_async(paths, task.benchmark, seed))
        and sum(1 for _ in whole_lines(paths.output(task.benchmark, seed))) >= rows_asked
        for seed in task.seeds
    )
