"""Which Slurm job this is, and how many of its runs came before this one, from the environment of the job."""

from __future__ import annotations

import os

from trimode.pipeline.spec import LINK


def job_name() -> str:
    """Returns the id by which Slurm's commands know this job; of an array: by its number in it. Empty elsewhere."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array else os.environ.get("SLURM_JOB_ID", "")


def restart_count() -> int:
    """Returns how often Slurm has requeued this job; 0 outside of Slurm."""
    return int(os.environ.get("SLURM_RESTART_COUNT") or 0)


def num_earlier_runs() -> int:
    """Returns how often Slurm has requeued this job, or how many arrays of its chain came before this one."""
    return restart_count() + int(os.environ.get(LINK) or 0)
