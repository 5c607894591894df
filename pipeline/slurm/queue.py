"""States of jobs, from squeue alone: unlike sacct it needs no accounting database and does not lag behind."""

from __future__ import annotations

import pwd
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from trimode.core.errors import WorkerError
from trimode.pipeline.slurm.commands import ask

ENDED = frozenset(
    {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "TIMEOUT"}
)
"""Final states of a job. A requeued one is PENDING."""
QUERY_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class QueueEntry:
    """What squeue says of a job."""

    state: str
    reason: str
    """Why it waits or ended; empty if Slurm gives no reason."""


def job_states(job_ids: Iterable[str]) -> dict[str, str]:
    """Returns the state of each job that Slurm still knows, by id (`123` or `123_4`).

    Raises WorkerError if squeue fails.
    """
    return {job_id: entry.state for job_id, entry in queue_entries(job_ids).items()}


def queue_entries(job_ids: Iterable[str]) -> dict[str, QueueEntry]:
    """Returns what one call of squeue says of each job that Slurm still knows, by id.

    Raises WorkerError if squeue fails.
    """
    wanted = set(job_ids)
    roots = sorted({job_id.partition("_")[0] for job_id in wanted})
    if not roots:
        return {}
    command = [
        "squeue",
        "--noheader",
        "--all",
        "--array",
        "--states=all",
        "--format=%i|%T|%r",
        f"--jobs={','.join(roots)}",
    ]
    reply = ask(command, QUERY_TIMEOUT_S)
    if reply.status:
        if "Invalid job id" in reply.err:
            return {}
        raise WorkerError(f"squeue failed: {reply.problem}")
    found = {}
    for line in reply.out.splitlines():
        job_id, _, rest = line.strip().partition("|")
        state, _, reason = rest.partition("|")
        if job_id in wanted:
            found[job_id] = QueueEntry(state, "" if reason in ("None", "(null)") else reason)
    return found


def ended_states(job_ids: Iterable[str]) -> dict[str, str]:
    """Returns how jobs ended, as far as the accounting knows: `FAILED`, or `CANCELLED by alice, TIME`.

    Nothing without accounting.
    """
    wanted = sorted(set(job_ids))
    if not wanted:
        return {}
    command = [
        "sacct",
        "--noheader",
        "--allocations",
        "--parsable2",
        "--format=JobID,State,End",
        f"--jobs={','.join(wanted)}",
    ]
    rows = [line.strip().split("|") for line in ask(command, QUERY_TIMEOUT_S).out.splitlines()]
    return {row[0]: _named(*row[1:3]) for row in rows if len(row) > 1 and row[0] in wanted}


def _named(state: str, ended: str = "") -> str:
    """Returns a state of sacct with the name of the user who cancelled the job, and when; other states as they are."""
    what, _, user = state.partition(" by ")
    if not user:
        return state
    with suppress(ValueError, KeyError):
        user = pwd.getpwuid(int(user)).pw_name
    return f"{what} by {user}" + (f", {ended}" if ended[:1].isdigit() else "")


def has_ended(state: str | None) -> bool:
    """True for a final state, and for None: a job that Slurm has forgotten."""
    return state is None or state in ENDED
