"""One run of a job under Slurm: how many came before it, and what follows when a signal interrupts it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

from trimode.core.errors import RESTARTS, RUN_AGAIN, TERMINATED, Stopped, WorkerError
from trimode.pipeline.console.signals import Signals
from trimode.pipeline.job.balancer import ServerEnded
from trimode.pipeline.run_folder.earlier_runs import num_earlier_runs
from trimode.pipeline.run_folder.manifest import runs_of
from trimode.pipeline.run_folder.paths import RunPaths
from trimode.pipeline.spec import Executor, JobSpec

WARNING = signal.SIGUSR2
"""Slurm sends it before the time limit."""
SAME_MOMENT_S = 1.0
"""Seconds within which one signal reaches all processes of a step."""


@contextmanager
def signal_comes_first(signals: Signals) -> Iterator[None]:
    """Makes a signal what ended the run if its server has died of the same signal.

    At the end of a job Slurm signals every process of the step, and a server that just starts dies at once.
    """
    try:
        yield
    except ServerEnded:
        time.sleep(SAME_MOMENT_S)
        signals.check()
        raise


def after_a_signal(spec: JobSpec, paths: RunPaths, error: BaseException) -> tuple[int, str] | WorkerError | None:
    """Decides what follows a run that a signal has interrupted, after the manifest has recorded it.

    Returns:
        Exit status and message of a job that leaves no failure record: RUN_AGAIN near the time limit, so that the batch
        script requeues it, and TERMINATED after SIGTERM. Slurm sends that to preempt a job and to cancel it, and only
        the batch script can ask which. A WorkerError that says why the job is not run again, although the time limit
        ended it. None if no signal of Slurm ended it.
    """
    if not isinstance(error, Stopped) or spec.resources.executor is not Executor.slurm:
        return None
    if "SLURM_JOB_ID" not in os.environ:
        return None
    if error.signum == signal.SIGTERM:
        return TERMINATED, "ended by SIGTERM: Slurm preempts or cancels the job; what is finished is kept"
    if error.signum != WARNING:
        return None
    at_the_limit, preempted = _ends(spec, paths)
    before, most, minutes = num_earlier_runs() - preempted, spec.resources.max_requeues, spec.resources.time_limit_min
    limit = f"the time limit of {minutes} min ended run {num_earlier_runs() + 1}"
    if before >= most:
        return WorkerError(
            f"{limit}; a job is requeued at most {most} times (cluster.max_requeues). What is finished is kept: run "
            "the same command again, or give the jobs more time (--time) or more chunks (--num-chunks)"
        )
    if len(at_the_limit) >= 2 and all(run.get("new_samples") == 0 for run in at_the_limit[-2:]):
        return WorkerError(
            f"{limit}, and neither this run nor the one before finished a single sample: the limit is too short for "
            "starting the workers and answering one batch; give more time (--time)"
        )
    how = "the next array of the chain goes on" if spec.resources.num_follow_ups else "requeued"
    return RUN_AGAIN, f"time limit: {limit}; {how} {before + 1}/{most}"


def _ends(spec: JobSpec, paths: RunPaths) -> tuple[list[dict[str, object]], int]:
    """Returns the runs that SIGTERM has not ended, and how many runs of this Slurm job it has ended.

    A preemption is no sign that a run had too little time, and does not count against the bound on requeues.
    """
    runs = runs_of(spec, paths)
    by_term = [run for run in runs if signal.SIGTERM.name in str(run.get("cause"))]
    here = [run for run in by_term if run.get("slurm_job_id") == os.environ.get("SLURM_JOB_ID")]
    return [run for run in runs if run not in by_term], len(here)


def may_start_again(error: BaseException) -> bool:
    """True if the batch script is to start the job again on the same devices: its server died.

    A server that never came up is tried once more.
    """
    restarts = os.environ.get(RESTARTS)
    return restarts is not None and isinstance(error, ServerEnded) and (error.came_up or int(restarts) == 0)
