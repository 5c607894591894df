"""`python -m trimode.pipeline.launch.task FOLDER`: what a Slurm job runs. It takes its call from the array's folder."""

from __future__ import annotations

import os
import signal
import sys

EARLY: list[int] = []
"""Signals that came before the job could act on them."""
if __name__ == "__main__":  # a batch script that is killed now must not take its step along before it can look at why
    signal.signal(signal.SIGTERM, lambda signum, _: EARLY.append(signum))

import time
from contextlib import suppress
from pathlib import Path
from types import FrameType

from trimode.core.errors import RUN_AGAIN, TERMINATED, guarded
from trimode.pipeline.launch.call import JobCall
from trimode.pipeline.launch.outcome import over_since
from trimode.pipeline.run_folder.earlier_runs import job_name, num_earlier_runs
from trimode.pipeline.run_folder.submission import CALLS, Call, read_call
from trimode.pipeline.slurm.orphan import requeue_if_orphaned
from trimode.pipeline.slurm.requeue import wish_of
from trimode.pipeline.spec import LINK

PATIENCE_S = 60.0
"""Seconds until a file that the submitting machine has written is seen on every node."""


def task_number() -> int:
    """Returns the number of this job in its array; 0 for a single job."""
    return int(os.environ.get("SLURM_ARRAY_TASK_ID") or 0)


def wait_for_call(folder: Path, number: int) -> Call:
    """Returns the call of this job. Raises OSError if its file does not appear."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return read_call(folder, number)
        except FileNotFoundError:
            if EARLY or time.monotonic() > deadline:
                raise
            time.sleep(1.0)


def again_if_allowed(call: Call) -> None:
    """Makes a signal that comes before the job's own handlers stand end this run, and ask for another one."""

    def warned(_signum: int, _frame: FrameType | None) -> None:
        if num_earlier_runs() < call.spec.resources.max_requeues:
            sys.exit(RUN_AGAIN)
        sys.exit("the time limit ended this run before the job had begun, and it is not requeued again")

    def ended(_signum: int, _frame: FrameType | None) -> None:
        sys.exit(TERMINATED)

    signal.signal(signal.SIGUSR2, warned)
    signal.signal(signal.SIGTERM, ended)


def wish_for_another_run(folder: Path) -> None:
    """Says to the batch script that this job wants another run, in case its step outlives it for long."""
    with suppress(OSError):  # the exit status says it too
        wish_of(folder, os.environ.get("SLURM_JOB_ID", "")).touch()


def main(argv: list[str]) -> int:
    """The command. Returns 0 for a job that has completed. An error of this project is shown without traceback."""
    return guarded(lambda: run_call(Path(argv[0])))


def run_call(folder: Path) -> int:
    """Runs the call of this job in the folder of its array. Returns 0; a job that fails raises its error."""
    call = wait_for_call(folder, task_number())
    submitted = (folder / CALLS).stat().st_mtime
    if os.environ.get(LINK) and (end := over_since(call.spec, submitted)) is not None:
        print(f"{call.spec.name} has {end} in an earlier array of this chain: there is nothing to do", flush=True)
        return 0
    again_if_allowed(call)
    try:
        if EARLY:
            sys.exit(TERMINATED)
        JobCall(spec=call.spec, token=call.token, function=call.function)()
    except SystemExit as end:
        if end.code == RUN_AGAIN:
            wish_for_another_run(folder)
        if end.code == TERMINATED and requeue_if_orphaned(job_name(), call.spec.resources.max_requeues):
            print("the batch script was killed; Slurm runs the job again", flush=True)
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
