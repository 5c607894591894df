"""Finds the folder that each planned job continues in, and what is left to run."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from trimode.pipeline.run_folder.paths import RunPaths
from trimode.pipeline.run_folder.resume import is_finished, remaining
from trimode.pipeline.spec import JobSpec


class JobProgress(StrEnum):
    """How far the job in a folder has come."""

    NEW = "new"
    RESUMED = "resumed"
    SKIPPED = "skipped"
    """Finished: nothing is left to run."""


@dataclass(frozen=True, slots=True)
class JobState:
    """A planned job, and what is left to run of it."""

    spec: JobSpec
    progress: JobProgress
    num_left: int
    """Requests still to send."""


def continue_or_start(jobs: Sequence[JobSpec], fresh: bool) -> tuple[JobState, ...]:
    """Returns each job with the folder it runs in and what is left to run there.

    That is the newest folder of its name, or with `fresh` a new one after it.
    """
    states = []
    for job in jobs:
        newest = latest_round(Path(job.run_dir))
        number = max(newest, 1) + (1 if fresh and newest else 0)
        spec = dataclasses.replace(job, run_dir=str(round_dir(Path(job.run_dir), number)))
        states.append(job_state(spec))
    return tuple(states)


def job_state(spec: JobSpec) -> JobState:
    """Returns the job with its progress and number of open requests, from the files in its folder."""
    if not Path(spec.run_dir).is_dir():
        return JobState(spec, JobProgress.NEW, sum(task.num_requests for task in spec.tasks))
    done = RunPaths(Path(spec.run_dir)).completed(spec.index).exists() and is_finished(spec)
    num_left = 0 if done else sum(remaining(spec).values())
    return JobState(spec, JobProgress.SKIPPED if done else JobProgress.RESUMED, num_left)


def latest_round(run_dir: Path) -> int:
    """Returns the highest round on disk: 1 for `run_dir`, N for `run_dir`_rN, 0 if there is none."""
    suffixes = (path.name.removeprefix(run_dir.name) for path in run_dir.parent.glob(f"{run_dir.name}_r*"))
    rounds = [int(match[1]) for suffix in suffixes if (match := re.fullmatch(r"_r([1-9]\d*)", suffix))]
    return max([int(run_dir.is_dir()), *rounds])


def round_dir(run_dir: Path, number: int) -> Path:
    """Returns the folder of a round. The first has no suffix."""
    return run_dir if number == 1 else run_dir.with_name(f"{run_dir.name}_r{number}")
