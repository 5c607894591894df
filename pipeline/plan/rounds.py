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


class Progress(StrEnum):
    """How far a job's folder has come."""

    NEW = "new"
    RESUMED = "resumed"
    SKIPPED = "skipped"
    """Finished: nothing is left to run."""


@dataclass(frozen=True, slots=True)
class JobState:
    """A planned job and what is left of it."""

    spec: JobSpec
    progress: Progress
    num_left: int
    """Requests still to send."""


def settle(jobs: Sequence[JobSpec], fresh: bool) -> tuple[JobState, ...]:
    """Each job in the folder it goes on in, the newest of its name or with `fresh` one after it; and what is left."""
    states = []
    for job in jobs:
        newest = latest_round(Path(job.run_dir))
        number = max(newest, 1) + (1 if fresh and newest else 0)
        spec = dataclasses.replace(job, run_dir=str(round_dir(Path(job.run_dir), number)))
        states.append(job_state(spec))
    return tuple(states)


def job_state(spec: JobSpec) -> JobState:
    """What the files of a job's folder say."""
    if not Path(spec.run_dir).is_dir():
        return JobState(spec, Progress.NEW, sum(task.num_requests for task in spec.tasks))
    done = RunPaths(Path(spec.run_dir)).completed(spec.index).exists() and is_finished(spec)
    num_left = 0 if done else sum(remaining(spec).values())
    return JobState(spec, Progress.SKIPPED if done else Progress.RESUMED, num_left)


def latest_round(run_dir: Path) -> int:
    """The highest round among `run_dir` (1) and `run_dir`_rN (N) on disk; 0 when there is none."""
    suffixes = (path.name.removeprefix(run_dir.name) for path in run_dir.parent.glob(f"{run_dir.name}_r*"))
    rounds = [int(match[1]) for suffix in suffixes if (match := re.fullmatch(r"_r([1-9]\d*)", suffix))]
    return max([int(run_dir.is_dir()), *rounds])


def round_dir(run_dir: Path, number: int) -> Path:
    """The folder of a round; the first has no suffix."""
    return run_dir if number == 1 else run_dir.with_name(f"{run_dir.name}_r{number}")
