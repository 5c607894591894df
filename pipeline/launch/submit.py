"""Hands planned jobs to Slurm through submitit, and on request waits for them and prints what became of them.

States come from squeue and from the markers in the run folders.
"""

from __future__ import annotations

import io
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path

from submitit.core.utils import FailedJobError, FailedSubmissionError
from submitit.slurm.slurm import SlurmExecutor
from trimode.core.errors import SubmissionError, TrimodeError, WorkerError
from trimode.pipeline.launch.call import Launcher
from trimode.pipeline.launch.fitting import fitting_arrays
from trimode.pipeline.launch.outcome import failure_message, forget, is_completed
from trimode.pipeline.launch.owner import hand_over
from trimode.pipeline.launch.view import entry_of, view
from trimode.pipeline.run_folder.paths import RunPaths
from trimode.pipeline.run_folder.submission import CALLS, Call, Submission, accepted, remove_files, write_calls
from trimode.pipeline.slurm.arrays import submission_dir
from trimode.pipeline.slurm.chain import follow_up
from trimode.pipeline.slurm.commands import outside_of_jobs
from trimode.pipeline.slurm.limits import cluster_name
from trimode.pipeline.slurm.orphan import batch_script_was_killed
from trimode.pipeline.slurm.queue import QueueEntry, has_ended, queue_entries
from trimode.pipeline.slurm.script import python_command, sbatch_text, slurm_parameters, task_command
from trimode.pipeline.spec import JobSpec

HELP = "docs/slurm-troubleshooting.md"
POLL_S = 5.0
"""Seconds between two calls of squeue."""
MOST_AGAIN = 3
"""How often a waiting command submits a job again whose batch script was killed."""


@dataclass(frozen=True, slots=True)
class Submitted:
    """A job that Slurm has accepted."""

    spec: JobSpec
    job_id: str
    follow_ups: tuple[str, ...] = ()
    """Ids of the jobs that wait to go on with it (a chain)."""

    @property
    def job_ids(self) -> tuple[str, ...]:
        """All ids of the job."""
        return (self.job_id, *self.follow_ups)

    @property
    def log(self) -> Path:
        """The log that Slurm writes, also if the job's own code never starts."""
        found = sorted((Path(self.spec.run_dir).parents[2] / ".submitit").glob(f"*/{self.job_id}_*_log.out"))
        return found[-1] if found else RunPaths(Path(self.spec.run_dir)).pipeline_log(self.spec.index)


def submit_arrays(jobs: Sequence[JobSpec], launcher: Launcher, submitted: list[Submitted]) -> None:
    """Submits one array per set of resources, or several where the cluster takes no array of that size.

    Adds what Slurm has accepted to `submitted`, array by array. The run folders, claimed by the launcher, belong to
    these Slurm jobs then. Jobs beyond the number that the user may have in Slurm are not submitted. Raises
    SubmissionError with sbatch's message, and with what was submitted before.
    """
    cluster = cluster_name()
    for group in fitting_arrays(jobs):
        try:
            ids = submit_array(group, launcher, cluster)
        except SubmissionError as error:
            raise SubmissionError(f"{error}{already_submitted(submitted)}", error.script) from error
        accepted_now = [Submitted(job, run[0], run[1:]) for job, run in zip(group, ids, strict=True)]
        submitted += accepted_now
        hand_folders_over(accepted_now, launcher)


def already_submitted(submitted: Sequence[Submitted]) -> str:
    """Returns what was submitted before a refusal, for the user, and what to do about the rest."""
    if not submitted:
        return ""
    names = [f"{item.job_id} ({item.spec.name}): {item.spec.run_dir}" for item in submitted]
    return "\n".join(["", "already submitted: " + "; ".join(names), "the same command submits the rest"])


def hand_folders_over(submitted: Sequence[Submitted], launcher: Launcher) -> None:
    """Makes the Slurm jobs that write into a run folder its owner."""
    ids: dict[str, list[str]] = {}
    for item in submitted:
        ids.setdefault(item.spec.run_dir, []).extend(item.job_ids)
    for run_dir, job_ids in ids.items():
        hand_over(Path(run_dir), launcher.token(run_dir), tuple(job_ids))


def submit_array(jobs: Sequence[JobSpec], launcher: Launcher, cluster: str = "") -> list[tuple[str, ...]]:
    """Submits jobs that ask for the same resources. Raises SubmissionError.

    Returns the Slurm ids of each: its own, then those of the jobs that wait to go on with it.

    One file holds what all of them run: a pickle per job, as submitit writes them, would be too many files.
    """
    folder = submission_dir(jobs)
    folder.mkdir(parents=True, exist_ok=True)
    write_calls(
        folder,
        [Call(spec=job, token=launcher.token(job.run_dir), function=launcher.function) for job in jobs],
    )
    written = (folder / CALLS).stat().st_mtime
    arrays: list[str] = []
    with outside_of_jobs():
        try:
            arrays.append(_sbatch(jobs, folder))
        except (FailedJobError, FailedSubmissionError, OSError) as error:
            remove_files(folder)
            raise SubmissionError(refusal(str(error)), sbatch_text(jobs)) from error
        forget(jobs, before=written)
        try:
            while len(arrays) <= jobs[0].resources.num_follow_ups:
                arrays.append(_sbatch(jobs, folder, arrays))
        except (FailedJobError, FailedSubmissionError, OSError) as error:
            print(f"note: the chain of {arrays[0]} ends after {len(arrays)} arrays: {error}", file=sys.stderr)
    submission = Submission(folder, arrays[0], len(jobs), cluster, tuple(arrays[1:]), launcher.command)
    accepted(submission)
    return submission.runs


def refusal(said: str) -> str:
    """Returns what sbatch said, in one line, and where the reasons are explained."""
    words = [line.strip().removeprefix("sbatch: ").removeprefix("error: ") for line in said.splitlines()]
    reason = "; ".join(dict.fromkeys(word for word in words if word))
    return f"sbatch refused the jobs: {reason}\nwhat to do: bash eval.sh --doctor with the same flags, and {HELP}"


def _sbatch(jobs: Sequence[JobSpec], folder: Path, earlier: Sequence[str] = ()) -> str:
    """Submits one array, which waits for the failure of `earlier`. Returns its id."""
    parameters = slurm_parameters(jobs)
    executor = SlurmExecutor(folder, python=python_command(jobs[0].resources))
    executor.update_parameters(**(follow_up(parameters, earlier) if earlier else parameters))
    if len(jobs) > 1:
        executor.parameters["map_count"] = len(jobs)
    with redirect_stderr(io.StringIO()):  # submitit prints a refusal, which is in its error as well
        return str(executor._submit_command(task_command(jobs)).job_id)


def _tell(item: Submitted, entry: QueueEntry, last: dict[str, str]) -> None:
    """Prints how a living job stands if that has changed: its state and reason, and every tenth of its samples."""
    line = view(item.spec, item.job_id, entry)
    tenth = 10 * line.done // line.total if line.total else 0
    what = f"{line.stage} {line.detail} {tenth}"
    if last.get(item.job_id) != what:
        last[item.job_id] = what
        print(f"{item.job_id} ({item.spec.name}): {line.line()}", file=sys.stderr, flush=True)


class Again:
    """Submits a job once more whose batch script was killed: nobody on the cluster was left to ask for another run."""

    def __init__(self, submit: Callable[[JobSpec], Submitted | None]) -> None:
        """`submit` returns None if Slurm takes no more jobs, or raises TrimodeError."""
        self._submit = submit
        self._times: Counter[tuple[str, str]] = Counter()

    def __call__(self, item: Submitted, state: str) -> Submitted | None:
        """Returns the new job of a job that has failed; None if it failed for another reason, or too often."""
        spec = item.spec
        name = spec.run_dir, spec.name
        if item.follow_ups or self._times[name] >= min(MOST_AGAIN, spec.resources.max_requeues):
            return None
        if state != "FAILED" or not batch_script_was_killed(item.job_id):
            return None
        self._times[name] += 1
        say = f"{item.job_id} ({spec.name}): its batch script was killed"
        try:
            new = self._submit(spec)
        except TrimodeError as error:
            print(f"{say}, and it could not be submitted again: {error}", file=sys.stderr, flush=True)
            return None
        if new is not None:
            print(f"{say}; it goes on as {new.job_id}", file=sys.stderr, flush=True)
        return new


def wait(
    submitted: Sequence[Submitted], pause: Callable[[float], None] = time.sleep, again: Again | None = None
) -> list[Submitted]:
    """Blocks until every job has ended. Returns those without a COMPLETED marker of this submission."""
    waiting = list(submitted)
    failed = []
    last: dict[str, str] = {}
    while waiting:
        try:
            entries = queue_entries(job_id for item in waiting for job_id in item.job_ids)
        except WorkerError as error:
            print(f"note: {error}; asking again", file=sys.stderr)
            pause(POLL_S)
            continue
        for item in list(waiting):
            entry = entry_of(item.job_ids, entries)
            if entry is not None and not has_ended(entry.state):
                _tell(item, entry, last)
                continue
            waiting.remove(item)
            state = "gone from squeue" if entry is None else entry.state
            completed = is_completed(item.spec) and (
                state in ("COMPLETED", "gone from squeue") or bool(item.follow_ups)
            )
            if not completed and again is not None and (new := again(item, state)) is not None:
                waiting.append(new)
                continue
            outcome = "COMPLETED" if completed else f"failed ({state}): {failure_message(item.spec, item.log)}"
            print(f"{item.job_id} ({item.spec.name}): {outcome}", file=sys.stderr, flush=True)
            if not completed:
                failed.append(item)
        if waiting:
            pause(POLL_S)
    return failed
