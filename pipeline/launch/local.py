"""Runs planned jobs on this machine, one after another, each in a process of its own; a signal ends the running one.

The job code is the same as under Slurm. submitit's local executor starts it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from submitit.local.local import LocalExecutor, LocalJob
from trimode.core.errors import Stopped
from trimode.core.project import child_environment
from trimode.pipeline.console.progress import Bars, read_snapshot
from trimode.pipeline.launch.call import DEVICES, GRACE_S, JobCall, Launcher, visible_devices
from trimode.pipeline.launch.outcome import failure_message, is_completed
from trimode.pipeline.run_folder.paths import RunPaths
from trimode.pipeline.run_folder.submission import remove_files
from trimode.pipeline.slurm.commands import outside_of_jobs
from trimode.pipeline.spec import JobSpec

POLL_S = 0.2
"""Seconds between two looks at a running job."""
ASK_EVERY_S = 1.0
"""Seconds between two requests to a job to end."""
ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class _Executor(LocalExecutor):  # type: ignore[misc]
    """submitit's executor, whose jobs ignore Ctrl-C: the launcher gets it too and ends the running job in order.

    The child inherits that SIGINT is blocked, and JobCall ignores it. A Ctrl-C in this moment waits for the launcher.
    """

    def _submit_command(self, command: str) -> LocalJob[None]:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return super()._submit_command(command)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Ending:
    """Raises Stopped at the first ending signal, or at the end of a block that must not be interrupted.

    Later signals are ignored while the job is being ended.
    """

    def __init__(self) -> None:
        self._received: int | None = None
        self._held = False

    def receive(self, signum: int, _frame: FrameType | None) -> None:
        """Handles a signal."""
        for each in ENDING:
            signal.signal(each, signal.SIG_IGN)
        self._received = signum
        if not self._held:
            raise Stopped(signum)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Lets the block end before a signal that comes meanwhile is raised."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
        if self._received is not None:
            raise Stopped(self._received)


def run_local(jobs: Sequence[JobSpec], launcher: Launcher) -> list[JobSpec]:
    """Runs every job, also after one has failed. Returns those that failed.

    A signal that ends this process ends the running job first. Then it is raised as Stopped.
    """
    failed = []
    with _signals_raise() as ending, outside_of_jobs():
        for number, job in enumerate(jobs, 1):
            print(f"[{number}/{len(jobs)}] {job.name}: {job.run_dir}", file=sys.stderr, flush=True)
            started = None
            try:
                with ending.held():
                    started = start(job, launcher)
                follow(job, started)
            except BaseException:
                if started is not None:
                    end(started)
                raise
            error = started.exception()
            remove_files(local_dir(job))
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
    """Asks a job to end until it does, and kills it after GRACE_S seconds.

    One signal is not enough: submitit swallows those that come before the job's own handler is in place.
    """
    process = started._process
    if process is None:
        return
    deadline = time.monotonic() + GRACE_S
    try:
        while process.poll() is None and time.monotonic() < deadline:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(ASK_EVERY_S)
    finally:
        process.kill()
        process.wait()


@contextmanager
def _signals_raise() -> Iterator[_Ending]:
    """Handles ending signals while the block runs."""
    ending = _Ending()
    before = {signum: signal.signal(signum, ending.receive) for signum in ENDING}
    try:
        yield ending
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def local_dir(job: JobSpec) -> Path:
    """Returns the folder in which submitit keeps pickle and output of a local job."""
    return RunPaths(Path(job.run_dir)).submitit_dir(job.index)
