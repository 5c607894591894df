"""A step whose batch script was killed, by a lack of memory for example: Slurm calls the job failed and ends the step.

Nobody is left to have the job run again but the step itself, where it sees scontrol: outside of containers.
"""

from __future__ import annotations

import os
import re

from trimode.pipeline.slurm.commands import ask

KILLED = re.compile(r"^(?=.* JobState=COMPLETING )(?!.* Reason=None )(?=.* Requeue=1 ).* ExitCode=0:9 ", re.DOTALL)
"""What scontrol shows of such a job. One that was cancelled or preempted has no reason."""
FAILED = re.compile(r" JobState=FAILED .* ExitCode=0:[1-9]", re.DOTALL)
"""What it shows afterwards: the script ended by a signal, with no exit status."""


def requeue_if_orphaned(job_id: str, max_requeues: int) -> bool:
    """Asks Slurm to run this job again if its batch script was killed. Returns True if Slurm does."""
    if int(os.environ.get("SLURM_RESTART_COUNT") or 0) >= max_requeues:
        return False
    shown = ask(["scontrol", "--oneliner", "show", "job", job_id])
    if shown.status != 0 or not KILLED.search(f" {shown.out} "):
        return False
    return ask(["scontrol", "requeue", job_id]).status == 0


def batch_script_was_killed(job_id: str) -> bool:
    """True if a signal has ended the batch script of a job that has failed, so that nobody could ask for another run.

    False if Slurm does not say.
    """
    shown = ask(["scontrol", "--oneliner", "show", "job", job_id])
    return shown.status == 0 and FAILED.search(f" {shown.out} ") is not None
