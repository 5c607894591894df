"""Finds the folder that each planned job continues in, and what is left to run."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from trimode.pipeline.benchmarks import load_benchmark
from trimode.pipeline.plan.names import settings_of
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
    note: str = ""
    """Why an earlier folder of the same name is not continued; empty if there is none."""


def continue_or_start(jobs: Sequence[JobSpec], fresh: bool) -> tuple[JobState, ...]:
    """Returns each job with the folder it runs in and what is left to run there.

    That is the newest folder of its name whose answers came from the prompts of today. Without one, or with `fresh`, it
    is a new one after the newest.
    """
    states = []
    jobs = [in_earlier_name(job) for job in jobs]
    for job in jobs:
        run_dir = Path(job.run_dir)
        newest = latest_round(run_dir)
        names = {task.benchmark for other in jobs if other.run_dir == job.run_dir for task in other.tasks}
        changed = {} if fresh else {number: changed_prompts(run_dir, number, names) for number in range(newest, 0, -1)}
        number = next((number for number, differ in changed.items() if differ == []), newest + 1)
        spec = dataclasses.replace(job, run_dir=str(round_dir(run_dir, number)))
        state = job_state(spec)
        if differ := changed.get(newest):
            note = f"{round_dir(run_dir, newest)} has answers to other prompts of {', '.join(differ)}"
            state = dataclasses.replace(state, note=note)
        states.append(state)
    return tuple(states)


def in_earlier_name(job: JobSpec) -> JobSpec:
    """Returns the job in the folder that an earlier command made under another name of the same model folder.

    A derived name has the model's path as it is seen from the caller's folder. If there is no such folder, the job
    stays as it is.
    """
    run_dir = Path(job.run_dir)
    settings = settings_of(job.exp_name)
    if settings is None or latest_round(run_dir):
        return job
    for found in sorted(run_dir.parents[2].glob(f"*/hf_base/{run_dir.name}")):
        exp_name = found.parents[1].name
        if settings_of(exp_name) == settings and job.model.path in _recorded_models(found):
            return dataclasses.replace(job, exp_name=exp_name, run_dir=str(found))
    return job


def _recorded_models(run_dir: Path) -> set[str]:
    """Returns the paths of the models that the jobs in a folder's manifest have."""
    try:
        jobs = json.loads(RunPaths(run_dir).manifest.read_text(encoding="utf-8"))["jobs"].values()
        return {job["config"]["model"]["path"] for job in jobs}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return set()


def changed_prompts(run_dir: Path, number: int, names: set[str]) -> list[str] | None:
    """Returns the benchmarks whose prompts a round recorded otherwise than they are today; None if there is no round.

    A folder without a manifest has no answers yet.
    """
    folder = round_dir(run_dir, number)
    if not folder.is_dir():
        return None
    try:
        recorded = json.loads(RunPaths(folder).manifest.read_text(encoding="utf-8"))["prompts"]
        return sorted(name for name in names & recorded.keys() if recorded[name] != load_benchmark(name).prompt_sha256)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []  # what is wrong with a manifest is said by the job, which writes it


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
