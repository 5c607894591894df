"""Runs planned jobs on this machine, one after another, each in a process of its own, and ends them when told to.

The same job code as under Slurm, started by submitit's local executor. Knows nothing of what a job does.
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
from trimode.pipeline.console.progress import Bars, read_snapshot
from trimode.pipeline.launch.call import DEVICES, GRACE_S, RUN_JOB, JobCall, visible_devices
from trimode.pipeline.launch.outcome import failure_words, is_completed
from trimode.pipeline.launch.owner import Owner
from trimode.pipeline.run_folder.paths import RunPaths
from trimode.pipeline.slurm.queue import outside_of_jobs
from trimode.pipeline.slurm.script import IMPORT_DIR
from trimode.pipeline.spec import JobSpec

POLL_S = 0.2
ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Stopped(BaseException):
    """This process was told to end by a signal."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)


class _Executor(LocalExecutor):  # type: ignore[misc]
    """submitit's, with Ctrl-C left to the launcher: it ends the job in order, instead of everybody at once."""

    def _submit_command(self, command: str) -> LocalJob[None]:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # inherited by the child
        try:
            return super()._submit_command(command)
        finally:
            signal.signal(signal.SIGINT, before)


def run_local(jobs: Sequence[JobSpec], owner: Owner, function: str = RUN_JOB) -> list[JobSpec]:
    """Runs every job; one that fails does not keep the next from running. Returns those that failed.

    A signal that ends this process ends the running job first and is raised as Stopped.
    """
    failed = []
    with _signals_raise(), outside_of_jobs():
        for number, job in enumerate(jobs, 1):
            print(f"[{number}/{len(jobs)}] {job.name}: {job.run_dir}", file=sys.stderr, flush=True)
            started = start(job, owner, function)
            try:
                follow(job, started)
            except BaseException:
                end(started)
                raise
            error = started.exception()
            if error is not None or not is_completed(job):
                failed.append(job)
                print(f"{job.name} failed: {failure_words(job, started.paths.stdout)}", file=sys.stderr, flush=True)
    return failed


def start(job: JobSpec, owner: Owner, function: str) -> LocalJob[None]:
    """Starts one job in the background."""
    folder = local_dir(job)
    shutil.rmtree(folder, ignore_errors=True)  # pids come again, and with them the names of old pickles
    executor = _Executor(folder)
    executor.update_parameters(timeout_min=job.resources.time_limit_min, stderr_to_stdout=True)
    os.environ.update(setup_environment())
    devices = visible_devices(os.environ.get(DEVICES), job.resources.num_gpus, job.resources.device)
    call = JobCall(spec=job, token=owner.token, launcher=owner.processes[0], devices=devices, function=function)
    started: LocalJob[None] = executor.submit(call)
    started._results_timeout_s = 0  # the result is there when the process has ended, or never
    return started


def follow(job: JobSpec, started: LocalJob[None]) -> None:
    """Shows a job's progress until it has ended: bars on a terminal, else the lines of its log."""
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
    """Ends a job in order; by force when it takes too long."""
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
    """Ending signals raise Stopped, once; later ones do nothing while the job is being ended."""

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


def setup_environment() -> dict[str, str]:
    """The same for a local job, as variables."""
    inherited = os.environ.get("PYTHONPATH")
    parts = [str(IMPORT_DIR), *(str(Path(part).absolute()) for part in (inherited or "").split(os.pathsep) if part)]
    return {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(dict.fromkeys(parts))}


def local_dir(job: JobSpec) -> Path:
    """Where submitit keeps the pickle and output of a local job."""
    return RunPaths(Path(job.run_dir)).submitit_dir(job.index)
