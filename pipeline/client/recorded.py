"""One run of some tasks as the manifest records it, from its start to how it ended."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import psutil
from trimode.core.errors import Stopped
from trimode.pipeline.client.failures import name_failures
from trimode.pipeline.client.metrics_file import UnansweredError
from trimode.pipeline.client.tasks import LoadedTask
from trimode.pipeline.console.progress import TaskProgress, read_snapshot
from trimode.pipeline.run_folder.lease import LeaseLost
from trimode.pipeline.run_folder.manifest import Manifest
from trimode.pipeline.run_folder.paths import RunPaths
from trimode.pipeline.run_folder.provenance import data_sha256
from trimode.pipeline.spec import JobSpec


@contextmanager
def recorded_run(spec: JobSpec, paths: RunPaths, loaded: Sequence[LoadedTask]) -> Iterator[Manifest]:
    """Opens the manifest before the block and closes it behind: `completed`, `interrupted` by a signal, or `failed`.

    Samples without an answer are named when the block completes or raises UnansweredError. Raises ConfigError if the
    folder holds results of other prompts or data.
    """
    manifest = Manifest(spec, paths)
    manifest.open(
        prompts={item.benchmark.name: item.benchmark.prompt_sha256 for item in loaded},
        data={
            item.benchmark.name: {"sha256": data_sha256(item.all_rows), "num_rows": len(item.all_rows)}
            for item in loaded
        },
    )
    before, began = _num_finished(spec, paths), time.time()
    try:
        yield manifest
        name_failures(spec, paths)
    except LeaseLost:
        raise  # the last entry is another run's
    except BaseException as error:
        status, cause = "interrupted" if isinstance(error, Stopped) else "failed", str(error) or type(error).__name__
        if isinstance(error, UnansweredError):
            name_failures(spec, paths)
        new = max(0, _num_finished(spec, paths) - before)
        manifest.close(status, new_samples=new, cause=cause, measured=_measured(spec, paths, began))
        raise
    new = max(0, _num_finished(spec, paths) - before)
    manifest.close("completed", new_samples=new, measured=_measured(spec, paths, began))


def _measured(spec: JobSpec, paths: RunPaths, began: float) -> dict[str, object] | None:
    snapshot = read_snapshot(paths.progress(spec.index))
    return measured(snapshot, began, (psutil.Process().create_time(), time.time()))


def measured(
    snapshot: Mapping[str, TaskProgress], began: float, process: tuple[float, float]
) -> dict[str, object] | None:
    """Returns the times of a run, from which the price of later ones follows. None if it asked no sample.

    Args:
        snapshot: what the job last wrote down, maybe of an earlier run.
        began: Unix time of the run's beginning; tasks that started before it belong to an earlier run.
        process: Unix times of the process' start and of now.

    Returns:
        startup_s until the first sample is asked, serving_s until the last one is answered, finish_s after it, and per
        benchmark the samples and the seconds that workers spent on them.
    """
    tasks = {name: task for name, task in snapshot.items() if task.scored and task.asked_at >= began}
    if not tasks:
        return None
    first = min(task.asked_at for task in tasks.values())
    last = max(task.answered_at for task in tasks.values())
    return {
        "startup_s": round(first - process[0], 3),
        "serving_s": round(last - first, 3),
        "finish_s": round(process[1] - last, 3),
        "tasks": {name: {"samples": task.scored, "worked_s": round(task.worked_s, 3)} for name, task in tasks.items()},
    }


def _num_finished(spec: JobSpec, paths: RunPaths) -> int:
    """Samples that are finished, as the job last wrote it down."""
    return sum(task.done for task in read_snapshot(paths.progress(spec.index)).values())
