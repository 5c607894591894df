"""How the jobs of some run folders stand: markers, manifest and progress in the folder, and one call of squeue."""

from __future__ import annotations

import math
import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from trimode.core.counted import counted
from trimode.core.errors import WorkerError
from trimode.core.files import tail
from trimode.pipeline.console.progress import TaskProgress, duration, read_snapshot
from trimode.pipeline.launch.outcome import cause
from trimode.pipeline.launch.owner import Life, read_owner
from trimode.pipeline.run_folder.job_json import job_from_json
from trimode.pipeline.run_folder.lease import holder_runs_here
from trimode.pipeline.run_folder.manifest import SLURM_JOB, runs_of
from trimode.pipeline.run_folder.paths import RunPaths
from trimode.pipeline.run_folder.submission import COMMAND, FOLDER, JOB_ID, out_dir_of, planned
from trimode.pipeline.slurm.queue import QueueEntry, ended_states, has_ended, queue_entries
from trimode.pipeline.spec import JobSpec

ENDS = {
    "TIMEOUT": "time limit", "NODE_FAIL": "node failed", "CANCELLED": "cancelled", "OUT_OF_MEMORY": "out of memory",
    "PREEMPTED": "preempted", "BOOT_FAIL": "node failed", "DEADLINE": "deadline passed",
}  # fmt: skip
"""What Slurm's final states mean."""
HELD = ("launch failed", "JobHeld", "held")
"""What Slurm's reasons of held jobs contain."""
LAST_LINES = 5


class Stage(StrEnum):
    """How far a job is."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    ENDED = "ended"
    """It is over without a marker: killed, cancelled or out of time. The same command goes on."""
    PLANNED = "planned"
    """Nothing is known but its plan."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobView:
    """One job as a user wants to see it."""

    spec: JobSpec
    job_id: str | None
    """Slurm id, None for a local job."""
    stage: Stage
    detail: str
    """Why it waits, failed or ended, and its runs so far; empty if there is nothing to say. The cause is whole."""
    progress: dict[str, TaskProgress]
    log: Path
    follow_ups: tuple[str, ...] = ()
    """Slurm ids of the jobs that wait to go on with it (a chain)."""
    command: str = ""
    """What was typed to run it, and goes on with it; empty if unknown."""

    @property
    def done(self) -> int:
        """Samples that are finished."""
        return sum(task.done for task in self.progress.values())

    @property
    def total(self) -> int:
        """Samples asked for."""
        return sum(task.total for task in self.progress.values()) or sum(task.num_requests for task in self.spec.tasks)

    def line(self) -> str:
        """Returns the job in one line: state, samples, speed and time left."""
        parts = [f"{self.stage}: {first_line(self.detail)}" if self.detail else str(self.stage)]
        parts.append(f"{self.done}/{self.total}")
        if self.stage is Stage.RUNNING:
            parts += _speed(self.progress)
        return "  ".join(parts)


def first_line(text: str) -> str:
    """Returns the first line of a text, with a mark if there are more."""
    head, _, rest = text.partition("\n")
    return f"{head} [...]" if rest.strip() else head


def _speed(progress: dict[str, TaskProgress]) -> list[str]:
    scored = sum(task.scored for task in progress.values())
    seconds = max((task.seconds for task in progress.values()), default=0.0)
    tokens, nfe = (sum(getattr(task, name) for task in progress.values()) for name in ("tokens", "nfe"))
    left = sum(task.total - task.done for task in progress.values())
    parts = []
    if scored and seconds:
        parts.append(f"{scored / seconds * 60:.0f}/min")
    if nfe:
        parts.append(f"TPF {tokens / nfe:.2f}")
    if scored and left:
        parts.append(f"ETA {duration(seconds / scored * left)}")
    return parts


def run_dirs_below(folder: Path) -> list[Path]:
    """Returns the run folders in a folder, which may be one itself."""
    found = {path.parent for name in ("plan.json", "manifest.json", "owner.json") for path in folder.rglob(name)}
    return sorted(path for path in found if ".submitit" not in path.parts)


def views(run_dirs: Iterable[Path]) -> list[JobView]:
    """Returns the jobs of the run folders as they stand, with one call of squeue for all of them.

    Without squeue the markers and the manifest alone are shown.
    """
    jobs = [entry for run_dir in run_dirs for entry in planned_jobs(run_dir)]
    ids = [job_id for _, job_ids, _ in jobs for job_id in job_ids]
    try:
        entries = queue_entries(ids)
    except WorkerError:
        entries = {}
    asked = [job_id for job_id in ids if job_id not in entries or entries[job_id].state == "CANCELLED"]
    for job_id, state in (ended_states(asked) if asked else {}).items():
        name, _, by = state.partition(" ")
        if name and (job_id not in entries or name == entries[job_id].state):
            entries[job_id] = QueueEntry(name, by)
    found = []
    for spec, job_ids, command in jobs:
        seen = view(spec, job_ids[0] if job_ids else None, entry_of(job_ids, entries))
        found.append(replace(seen, follow_ups=job_ids[1:], command=command))
    return found


def entry_of(job_ids: Sequence[str], entries: Mapping[str, QueueEntry]) -> QueueEntry | None:
    """Returns what Slurm says of a job with these ids, of which all but the first wait to go on with it (a chain).

    That is the first that has not ended, else the last that ended otherwise than by being cancelled as not needed.
    """
    known = [entries[job_id] for job_id in job_ids if job_id in entries]
    living = [entry for entry in known if not has_ended(entry.state)]
    ran = [entry for entry in known if entry.state != "CANCELLED"] or known[:1]
    return living[0] if living else ran[-1] if ran else None


def planned_jobs(run_dir: Path) -> Iterator[tuple[JobSpec, tuple[str, ...], str]]:
    """Yields the jobs in a folder's plan with their Slurm ids and what was typed. Damaged entries are left out."""
    jobs: dict[int, tuple[JobSpec, tuple[str, ...], str]] = {}
    try:
        rows = planned(run_dir).get("jobs")
    except (OSError, ValueError, RecursionError):
        return
    for row in rows if isinstance(rows, list) else []:
        spec = job_from_json(row)
        if spec is not None:
            ids = (row[JOB_ID],) if isinstance(row.get(JOB_ID), str) else ()
            earlier = jobs[spec.index][1] if spec.index in jobs else ()
            command = row.get(COMMAND)
            jobs[spec.index] = (spec, (*earlier, *ids), command if isinstance(command, str) else "")
    yield from jobs.values()


def view(spec: JobSpec, job_id: str | None, entry: QueueEntry | None) -> JobView:
    """Returns how one job stands. `entry`: what Slurm says of it, None if nothing."""
    paths = RunPaths(Path(spec.run_dir))
    stage, detail = _stage(spec, paths, job_id, entry)
    try:
        progress = read_snapshot(paths.progress(spec.index))
    except (OSError, ValueError, TypeError):  # just being replaced, or of another release
        progress = {}
    runs = runs_of(spec, paths)
    if stage is Stage.RUNNING:
        progress = _of_this_run(progress, runs)
    if stage in (Stage.RUNNING, Stage.PENDING) and not _has_begun(spec, job_id, runs):
        progress = {
            task.benchmark: TaskProgress(total=task.num_requests, done=progress[task.benchmark].done)
            for task in spec.tasks
            if task.benchmark in progress
        }
    log = paths.pipeline_log(spec.index)
    return JobView(spec=spec, job_id=job_id, stage=stage, detail=detail, progress=progress, log=log)


def _of_this_run(progress: dict[str, TaskProgress], runs: list[dict[str, object]]) -> dict[str, TaskProgress]:
    """Returns the counts without the speed of an earlier run, which is there until this run has its first answers."""
    began = 0.0
    if runs and runs[-1].get("status") == "interrupted":
        began = math.inf  # the next one begins
    elif runs:
        with suppress(ValueError):
            began = datetime.fromisoformat(str(runs[-1].get("start"))).timestamp()
    return {
        name: task if task.started_at >= began else TaskProgress(total=task.total, done=task.done)
        for name, task in progress.items()
    }


def _stage(spec: JobSpec, paths: RunPaths, job_id: str | None, entry: QueueEntry | None) -> tuple[Stage, str]:
    """The stage of a job, and what is to be said of it."""
    runs = runs_of(spec, paths)
    present = len(runs) + (bool(runs) and runs[-1].get("status") == "interrupted")  # the next one begins
    number = f"run {present}" if present > 1 else ""
    if job_id is not None and entry is not None and not has_ended(entry.state):
        if entry.state != "PENDING":
            return Stage.RUNNING, ", ".join(filter(None, (number, *_nodes(spec, runs))))
        again = _why_again(spec, runs) if runs and _has_begun(spec, job_id, runs) else ""
        why = f"held: {entry.reason}" if any(word in entry.reason for word in HELD) else entry.reason
        return Stage.PENDING, ", ".join(filter(None, (again, why)))
    if paths.completed(spec.index).exists():
        return Stage.COMPLETED, ""
    if paths.failed(spec.index).exists():
        return Stage.FAILED, cause(paths.failed(spec.index))
    if job_id is None and _lives_here(paths):
        if holder_runs_here(paths, spec.index):
            return Stage.RUNNING, number
        return Stage.PENDING, "it waits for the jobs before it"
    if entry is not None:
        how = ENDS.get(entry.state, entry.state.lower())
        if entry.reason.startswith("by "):  # who cancelled it, and when
            how = f"{how} {entry.reason}"
        if entry.state != "COMPLETED":
            return Stage.ENDED, f"{how}; the same command goes on"
        return Stage.ENDED, f"it left no marker{_last_words(spec, job_id)}"
    if runs:
        return Stage.ENDED, f"{runs[-1].get('cause') or runs[-1].get('status')}; the same command goes on"
    return Stage.PLANNED, ""


def _nodes(spec: JobSpec, runs: list[dict[str, object]]) -> list[str]:
    """The nodes of a job with several, and the workers that its present run has lost."""
    lost = runs[-1].get("lost_workers") if runs else None
    parts = [f"{spec.resources.num_nodes} nodes"] if spec.resources.num_nodes > 1 else []
    if isinstance(lost, dict):
        parts += [f"{counted(count, 'worker')} lost with {node}" for node, count in lost.items()]
    return parts


def _last_words(spec: JobSpec, job_id: str | None) -> str:
    """The end of Slurm's own log, which alone knows why a step was not started."""
    folder = out_dir_of(Path(spec.run_dir)) / FOLDER
    for log in sorted(folder.glob(f"*/{job_id}_*_log.out")):
        return f"; {log} ends with:\n{tail(log, LAST_LINES)}"
    return ""


def _has_begun(spec: JobSpec, job_id: str | None, runs: list[dict[str, object]]) -> bool:
    """True unless the last run is known to be of another Slurm job: this one was submitted after it.

    The jobs of a chain are one job here.
    """
    if not runs or job_id is None or spec.resources.num_follow_ups:
        return True
    return (runs[-1].get(SLURM_JOB) or job_id) == job_id


def _why_again(spec: JobSpec, runs: list[dict[str, object]]) -> str:
    """Why a job that has run before waits again."""
    if signal.SIGTERM.name in str(runs[-1].get("cause")):
        return "preempted"
    return f"requeued {int(str(runs[-1].get('restart_count') or 0)) + 1}/{spec.resources.max_requeues}"


def _lives_here(paths: RunPaths) -> bool:
    owner = read_owner(paths.run_dir)
    return owner is not None and not owner.slurm_jobs and owner.life() is Life.RUNS
