"""Leaves out of a submission what living Slurm jobs work on already, so that the same command may come at any time."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from trimode.core.errors import WorkerError
from trimode.core.files import write_json_atomic
from trimode.pipeline.launch.owner import read_owner
from trimode.pipeline.run_folder.paths import RunPaths
from trimode.pipeline.slurm.queue import has_ended, job_states
from trimode.pipeline.spec import JobSpec, TaskSpec, job_from_json

JOB_ID = "slurm_job_id"
"""Key of an entry of plan.json: the Slurm job that was submitted for it."""


@dataclass(frozen=True, slots=True)
class LivingJob:
    """A job that waits or runs in Slurm."""

    spec: JobSpec
    job_id: str
    state: str


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A benchmark that is not submitted, because a living job works on it."""

    name: str
    """Name of the planned job."""
    benchmark: str
    by: LivingJob

    def __str__(self) -> str:
        """Returns one line for the user."""
        return (
            f"{self.name}: {self.benchmark} is left out: Slurm job {self.by.job_id} ({self.by.state}) works on it in "
            f"{self.by.spec.run_dir}"
        )


def living_jobs(run_dirs: Iterable[str]) -> dict[str, list[LivingJob]]:
    """Returns the jobs of run folders that wait or run in Slurm, for the folders that have any. One call of squeue.

    A folder whose owner cannot be asked has none here; claiming it says so.
    """
    planned: dict[str, list[tuple[JobSpec, str]]] = {}
    for run_dir in run_dirs:
        owner = read_owner(Path(run_dir))
        if owner is not None and owner.slurm_jobs:
            planned[run_dir] = [entry for entry in read_plan(Path(run_dir)) if entry[1] in owner.slurm_jobs]
    try:
        states = job_states(job_id for entries in planned.values() for _, job_id in entries)
    except WorkerError:
        return {}
    found = {
        run_dir: [
            LivingJob(spec, job_id, states[job_id]) for spec, job_id in entries if not has_ended(states.get(job_id))
        ]
        for run_dir, entries in planned.items()
    }
    return {run_dir: jobs for run_dir, jobs in found.items() if jobs}


def leave_out_living(
    jobs: Sequence[JobSpec], living: dict[str, list[LivingJob]]
) -> tuple[list[JobSpec], list[LeftOut]]:
    """Returns the jobs without the benchmarks that living jobs work on, and what was left out.

    What is left of a job gets a number that no living job of its folder has. A job of which nothing is left is dropped.
    """
    kept: list[JobSpec] = []
    left_out: list[LeftOut] = []
    taken = {run_dir: {job.spec.index for job in there} for run_dir, there in living.items()}
    for job in jobs:
        there = living.get(job.run_dir, [])
        tasks = []
        for task in job.tasks:
            by = next((other for other in there if any(_meets(task, busy) for busy in other.spec.tasks)), None)
            if by is None:
                tasks.append(task)
            else:
                left_out.append(LeftOut(job.name, task.benchmark, by))
        if not tasks:
            continue
        used = taken.setdefault(job.run_dir, set())
        index = job.index if job.index not in used else next(n for n in itertools.count() if n not in used)
        used.add(index)
        kept.append(dataclasses.replace(job, index=index, tasks=tuple(tasks)))
    return kept, left_out


def _meets(task: TaskSpec, other: TaskSpec) -> bool:
    """True if two tasks write the same files: the same benchmark, unless they are two shares of one division."""
    if task.benchmark != other.benchmark:
        return False
    one, two = task.chunk, other.chunk
    divided = one is not None and two is not None and one.count == two.count and task.seeds == other.seeds
    return not divided or one == two


def read_plan(run_dir: Path) -> list[tuple[JobSpec, str]]:
    """Returns the jobs of plan.json that were submitted, with their Slurm ids. Damaged entries are left out."""
    try:
        entries = json.loads(RunPaths(run_dir).plan.read_text(encoding="utf-8"))["jobs"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []
    found = []
    for entry in entries if isinstance(entries, list) else []:
        spec = job_from_json(entry)
        if spec is not None and isinstance(entry.get(JOB_ID), str):
            found.append((spec, entry[JOB_ID]))
    return found


def write_plan(run_dir: Path, living: Sequence[LivingJob], jobs: Sequence[tuple[JobSpec, str | None]]) -> None:
    """Writes plan.json: the living jobs of the folder, then those of this command with their Slurm ids, if known."""
    entries = [(job.spec, job.job_id) for job in living] + list(jobs)
    rows = [dataclasses.asdict(spec) | ({JOB_ID: job_id} if job_id else {}) for spec, job_id in entries]
    write_json_atomic(RunPaths(run_dir).plan, {"jobs": rows})
