"""Leaves out of a submission what living Slurm jobs work on already, so that the same command may come at any time."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from trimode.core.errors import WorkerError
from trimode.core.files import locked, write_json_atomic
from trimode.pipeline.launch.owner import Owner, read_owner
from trimode.pipeline.run_folder.job_json import job_from_json
from trimode.pipeline.run_folder.paths import RunPaths
from trimode.pipeline.run_folder.submission import COMMAND, JOB_ID, Submission, forget, planned, submissions
from trimode.pipeline.slurm.limits import cluster_name
from trimode.pipeline.slurm.queue import has_ended, job_states
from trimode.pipeline.spec import JobSpec

SUBMIT_LOCK = ".submit.lock"
"""File of the out-dir that is locked while a command submits or removes what has ended."""


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


def slurm_states(owners: Iterable[Owner], submitted: Iterable[Submission] = ()) -> dict[str, str] | None:
    """Returns what squeue knows of the jobs of owners and submissions, by id. One call; None if squeue fails."""
    ids = {job_id for owner in owners for job_id in owner.slurm_jobs}
    ids.update(job_id for item in submitted for job_id in item.job_ids)
    try:
        return job_states(ids)
    except WorkerError:
        return None


def owners_of(run_dirs: Iterable[str]) -> dict[str, Owner]:
    """Returns the owners of the run folders that have one."""
    found = {run_dir: read_owner(Path(run_dir)) for run_dir in run_dirs}
    return {run_dir: owner for run_dir, owner in found.items() if owner is not None}


def living_jobs(owners: Mapping[str, Owner], states: Mapping[str, str] | None) -> dict[str, list[LivingJob]]:
    """Returns the jobs of owned run folders that wait or run in Slurm, for the folders that have any.

    `states`: what squeue says; None if it does not answer. A folder whose owner cannot be asked has no jobs here;
    claiming it says so.
    """
    if states is None:
        return {}
    found = {
        run_dir: [
            LivingJob(spec, job_id, states[job_id])
            for spec, job_id in read_plan(Path(run_dir))
            if job_id in owner.slurm_jobs and not has_ended(states.get(job_id))
        ]
        for run_dir, owner in owners.items()
        if not all(has_ended(states.get(job_id)) for job_id in owner.slurm_jobs)
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
            by = next(
                (other for other in there if any(task.shares_files_with(busy) for busy in other.spec.tasks)), None
            )
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


def read_plan(run_dir: Path) -> list[tuple[JobSpec, str]]:
    """Returns the jobs of a folder's plan that were submitted, with their Slurm ids. Damaged entries are left out."""
    try:
        entries = planned(run_dir).get("jobs")
    except (OSError, ValueError, RecursionError):
        return []
    found = []
    for entry in entries if isinstance(entries, list) else []:
        spec = job_from_json(entry)
        if spec is not None and isinstance(entry.get(JOB_ID), str):
            found.append((spec, entry[JOB_ID]))
    return found


def write_plan(
    run_dir: Path, living: Sequence[LivingJob], jobs: Sequence[tuple[JobSpec, str | None]], command: str = ""
) -> None:
    """Writes plan.json: the living jobs of the folder, then those of this command with their Slurm ids, if known.

    `command`: what was typed for the latter; empty if unknown.
    """
    rows = [dataclasses.asdict(job.spec) | {JOB_ID: job.job_id} for job in living]
    typed = {COMMAND: command} if command else {}
    rows += [dataclasses.asdict(spec) | typed | ({JOB_ID: job_id} if job_id else {}) for spec, job_id in jobs]
    write_json_atomic(RunPaths(run_dir).plan, {"jobs": rows})


def forget_ended(out_dir: Path, states: Mapping[str, str] | None) -> None:
    """Removes the calls and scripts of submissions to this cluster whose jobs have all ended. Logs stay.

    `states`: what squeue says; None if it does not answer. The caller holds the lock of the out-dir.
    """
    ended = [
        item
        for item in (submissions(out_dir) if states is not None else ())
        if states is not None and all(has_ended(states.get(job_id)) for job_id in item.job_ids)
    ]
    here = cluster_name() if ended else ""
    for item in ended:
        if here and item.cluster == here:
            forget(item)


def tidy(out_dir: Path) -> None:
    """Does the same for a command that submits nothing. It asks squeue only if there are submissions."""
    with suppress(OSError), locked(out_dir / SUBMIT_LOCK):
        kept = submissions(out_dir)
        forget_ended(out_dir, slurm_states((), kept) if kept else None)
