"""How many runs of a Slurm job came before this one, from the environment of the job."""

from __future__ import annotations

import os

from trimode.pipeline.spec import LINK


def restart_count() -> int:
    """Returns how often Slurm has requeued this job; 0 outside of Slurm."""
    return int(os.environ.get("SLURM_RESTART_COUNT") or 0)


def num_earlier_runs() -> int:
    """Returns how often Slurm has requeued this job, or how many arrays of its chain came before this one."""
    return restart_count() + int(os.environ.get(LINK) or 0)
