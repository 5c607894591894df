"""One run of a job under Slurm: how many came before it, and if one that ended early asks for another."""

from __future__ import annotations

import os
import signal

from trimode.core.errors import RESTARTS, Stopped, WorkerError
from trimode.pipeline.job.balancer import ServerEnded
from trimode.pipeline.run_folder.manifest import runs_of
from trimode.pipeline.run_folder.paths import RunPaths
from trimode.pipeline.spec import Executor, JobSpec

WARNING = signal.SIGUSR2
"""Slurm sends it before the time limit."""


def restart_count() -> int:
    """Returns how often Slurm has requeued this job."""
    return int(os.environ.get("SLURM_RESTART_COUNT") or 0)


def another_run(spec: JobSpec, paths: RunPaths, error: BaseException) -> str | WorkerError | None:
    """Decides what follows an interrupted run, after the manifest has recorded it.

    Returns:
        The message with which the job asks Slurm for another run. A WorkerError that says why it does not, although the
        time limit ended it. None if the time limit did not end it.
    """
    stopped_at_limit = isinstance(error, Stopped) and error.signum == WARNING
    if not stopped_at_limit or spec.resources.executor is not Executor.slurm or "SLURM_JOB_ID" not in os.environ:
        return None
    before, most, minutes = restart_count(), spec.resources.max_requeues, spec.resources.time_limit_min
    limit = f"the time limit of {minutes} min ended run {before + 1}"
    if before >= most:
        return WorkerError(
            f"{limit}; a job is requeued at most {most} times (cluster.max_requeues). What is finished is kept: run "
            "the same command again, or give the jobs more time (--time) or more chunks (--num-chunks)"
        )
    last_runs = runs_of(spec, paths)[-2:]
    if len(last_runs) == 2 and all(run.get("new_samples") == 0 for run in last_runs):  # of a killed one it is unknown
        return WorkerError(
            f"{limit}, and neither this run nor the one before finished a single sample: the limit is too short for "
            "starting the workers and answering one batch; give more time (--time)"
        )
    return f"time limit: {limit}; requeued {before + 1}/{most}"


def may_start_again(error: BaseException) -> bool:
    """True if the batch script is to start the job again on the same devices.

    The server died, but not each time before it served; or the job was ended by SIGTERM, which the batch script has
    got too if the job is being cancelled: then it starts nothing.
    """
    restarts = os.environ.get(RESTARTS)
    if restarts is None:
        return False
    if isinstance(error, ServerEnded):
        return error.came_up or int(restarts) == 0
    return isinstance(error, Stopped) and error.signum == signal.SIGTERM
