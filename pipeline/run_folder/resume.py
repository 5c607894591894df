"""Reads from the files of a run folder alone which samples are finished and which a repeated command still has to run.

Needs no benchmark data, no model and no network. A sample that failed for want of infrastructure (`error_kind`
"infrastructure") counts as unfinished: the same command tries it again. One that the server refused (4xx) is finished.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from trimode.core.files import whole_lines
from trimode.pipeline.run_folder.paths import RunPaths
from trimode.pipeline.run_folder.rows import finished_positions, num_rows, read_async
from trimode.pipeline.spec import JobSpec, TaskSpec


def remaining(spec: JobSpec) -> dict[tuple[str, int], int]:
    """Samples still to run per (benchmark, seed) of the job; 0 = that seed is finished and its metrics can stand."""
    paths = RunPaths(Path(spec.run_dir))
    left: dict[tuple[str, int], int] = {}
    for task in spec.tasks:
        rows = num_rows(paths, task)
        for seed in task.seeds:
            finished = finished_positions(paths, task.benchmark, seed)
            left[task.benchmark, seed] = sum(position not in finished for position in task.positions(rows))
    return left


def is_finished(spec: JobSpec) -> bool:
    """True when the job completed and asks for nothing more: no sample is left and every benchmark has its metrics."""
    paths = RunPaths(Path(spec.run_dir))
    if any(remaining(spec).values()):
        return False
    whole = replace(spec, tasks=tuple(replace(task, chunk=None) for task in spec.tasks))
    others = remaining(whole)  # samples of jobs that share these benchmarks: whoever ends last puts all together
    return all(
        any(others[task.benchmark, seed] for seed in task.seeds)
        or (paths.metrics(task.benchmark).exists() and is_merged(paths, task, num_rows(paths, task)))
        for task in spec.tasks
    )


def is_merged(paths: RunPaths, task: TaskSpec, rows_asked: int) -> bool:
    """Whether every seed's finished file holds the newest of all rows asked, those of all chunks."""
    return all(
        not any(position < rows_asked for position in read_async(paths, task.benchmark, seed))
        and sum(1 for _ in whole_lines(paths.output(task.benchmark, seed))) >= rows_asked
        for seed in task.seeds
    )
