"""Claims the run folders of the jobs of a command, and gives them back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from trimode.pipeline.launch.call import Launcher
from trimode.pipeline.launch.living import write_plan
from trimode.pipeline.launch.outcome import forget
from trimode.pipeline.launch.owner import Owner, claim, release
from trimode.pipeline.spec import JobSpec


def take(jobs: Sequence[JobSpec], launcher: Launcher, take_over: bool = False) -> None:
    """Claims every run folder of the jobs, writes plan.json there and removes old markers of the jobs.

    On an error no folder stays claimed.

    `take_over`: also from owners that cannot be asked.
    """
    owner = launcher.owner
    claim_all(jobs, owner, take_over)
    try:
        for run_dir in dict.fromkeys(job.run_dir for job in jobs):
            here = [(job, None) for job in jobs if job.run_dir == run_dir]
            write_plan(Path(run_dir), [], here, launcher.command)
        forget(jobs)
    except BaseException:
        give_back(jobs, owner)
        raise


def claim_all(
    jobs: Sequence[JobSpec], owner: Owner, take_over: bool = False, states: Mapping[str, str] | None = None
) -> None:
    """Claims every run folder of the jobs. On an error no folder stays claimed. `states`: what squeue says."""
    try:
        for run_dir in dict.fromkeys(job.run_dir for job in jobs):
            claim(Path(run_dir), owner, take_over, states)
    except BaseException:
        give_back(jobs, owner)
        raise


def give_back(jobs: Sequence[JobSpec], owner: Owner) -> None:
    """Ends the claims of this process. Folders handed over to Slurm jobs stay theirs."""
    for run_dir in dict.fromkeys(job.run_dir for job in jobs):
        release(Path(run_dir), owner.token)
