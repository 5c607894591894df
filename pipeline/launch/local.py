"""Runs planned jobs on this machine, one after another, each in a process of its own; a signal ends the running one.

The job code is the same as under Slurm. submitit's local executor starts it.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from submitit.local.local import LocalExecutor, LocalJob
from trimode.core.errors import Stopped
from trimode.core.project import child_environment
from trimode.pipeline.console.progress import Bars, read_snapshot
from trimode.pipeline.launch.call import DEVICES, GRACE_S, JobCall, Launcher, visible_devices
from trimode.pipeline.launch.outcome import failure_message, is_completed
from trimode.pipeline.run_folder.paths import RunPaths
from trimode.pipeline.slurm.queue import outside_of_jobs
from trimode.pipeline.spec import JobSpec

POLL_S = 0.2
"""Seconds between two looks at a running job."""
ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class _Executor(LocalExecutor):  # type: ignore[misc]
    """submitit's executor, whose jobs ignore Ctrl-C: the launcher gets it too and ends the running job in order."""

    def _submit_command(self, command: str) -> LocalJob[None]:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # inherited by the child
        try:
            return super()._submit_command(command)
        finally:
            signal.signal(signal.SIGINT, before)


def run_local(jobs: Sequence[JobSpec], launcher: Launcher) -> list[JobSpec]:
    """Runs every job, also after one has failed. Returns those that failed.

    A signal that ends this process ends the running job first. Then it is raised as Stopped.
    """
    failed = []
    with _signals_raise(), outside_of_jobs():
        for number, job in enumerate(jobs, 1):
            print(f"[{number}/{len(jobs)}] {job.name}: {job.run_dir}", file=sys.stderr, flush=True)
            started = start(job, launcher)
            try:
                follow(job, started)
            except BaseException:
                end(started)
                raise
            error = started.exception()
            if error is not None or not is_completed(job):
                failed.append(job)
                print(f"{job.name} failed: {failure_message(job, started.paths.stdout)}", file=sys.stderr, flush=True)
    return failed


def start(job: JobSpec, launcher: Launcher) -> LocalJob[None]:
    """Starts one job in the background."""
    folder = local_dir(job)
    shutil.rmtree(folder, ignore_errors=True)  # pickles are named by pid, and pids are handed out again
    executor = _Executor(folder)
    executor.update_parameters(timeout_min=job.resources.time_limit_min, stderr_to_stdout=True)
    os.environ.update(child_environment())
    devices = visible_devices(os.environ.get(DEVICES), job.resources.num_gpus, job.resources.device)
    owner = launcher.owner
    call = JobCall(
        spec=job, token=owner.token, launcher=owner.processes[0], devices=devices, function=launcher.function
    )
    started: LocalJob[None] = executor.submit(call)
    started._results_timeout_s = 0  # a process that has ended without a result never has one
    return started


def follow(job: JobSpec, started: LocalJob[None]) -> None:
    """Shows a job's progress until it has ended: bars on a terminal, the lines of its log elsewhere."""
    paths = RunPaths(Path(job.run_dir))
    if sys.stderr.isatty():
        bars = Bars()
        bars.start()
        try:
            while not started.done():
                bars.update(job.name, read_snapshot(paths.progress(job.index)))
                time.sleep(POLL_S)
            bars.update(job.name, read_snapshot(paths.progress(job.index)))
        finally:
            bars.stop()
        return
    log = paths.pipeline_log(job.index)
    position = log.stat().st_size if log.exists() else 0
    while True:
        ended = started.done()
        if log.exists():
            with log.open(encoding="utf-8", errors="replace") as file:
                file.seek(position)
                sys.stderr.write(file.read())
                sys.stderr.flush()
                position = file.tell()
        if ended:
            return
        time.sleep(POLL_S)


def end(started: LocalJob[None]) -> None:
    """Asks a job to end, and kills it after GRACE_S seconds."""
    process = started._process
    if process is None:
        return
    process.terminate()
    try:
        process.wait(GRACE_S)
    finally:
        process.kill()
        process.wait()


@contextmanager
def _signals_raise() -> Iterator[None]:
    """Raises Stopped at the first ending signal. Later ones are ignored while the job is being ended."""

    def stop(signum: int, _frame: FrameType | None) -> None:
        for each in ENDING:
            signal.signal(each, signal.SIG_IGN)
        raise Stopped(signum)

    before = {signum: signal.signal(signum, stop) for signum in ENDING}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def local_dir(job: JobSpec) -> Path:
    """Returns the folder in which submitit keeps pickle and output of a local job."""
    return RunPaths(Path(job.run_dir)).submitit_dir(job.index)
