"""One sweep from its typed config to an exit status: check, survey, plan, then dry run, local run or submission.

Knows no flags and no Hydra; says nothing on stdout but the dry run, the report, and what to type next.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from trimode.core.errors import ConfigError, SubmissionError, TrimodeError
from trimode.core.files import write_json_atomic
from trimode.pipeline.config.checks import check
from trimode.pipeline.config.schema import Config
from trimode.pipeline.launch import dry_run
from trimode.pipeline.launch.call import RUN_JOB
from trimode.pipeline.launch.local import Stopped, run_local
from trimode.pipeline.launch.owner import Owner, claim, release, this_process
from trimode.pipeline.launch.preflight import ensure_worker_packages, preflight
from trimode.pipeline.launch.submit import submit_arrays, wait
from trimode.pipeline.plan.jobs import plan
from trimode.pipeline.plan.rounds import JobState, Progress, settle
from trimode.pipeline.plan.survey import absolute, survey
from trimode.pipeline.run_folder.paths import RunPaths
from trimode.pipeline.spec import Executor, JobSpec

OK, FAILED, USER_ERROR = 0, 1, 2
"""Exit statuses."""


def guarded(command: Callable[[], int]) -> int:
    """Runs a command and turns its errors into words on stderr and an exit status."""
    try:
        return command()
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    except SubmissionError as error:
        script = f"\nThe script was:\n{error.script}" if error.script else ""
        print(f"error: {error}{script}", file=sys.stderr)
    except TrimodeError as error:
        print(f"error: {error}", file=sys.stderr)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # whoever read stdout has seen enough
        return OK
    except (Stopped, KeyboardInterrupt) as error:
        print(f"stopped by {error or 'Ctrl-C'}; the same command goes on where this one ended", file=sys.stderr)
    return FAILED


def run(config: Config, cwd: Path, function: str = RUN_JOB) -> int:
    """Runs a sweep; returns the exit status. `cwd` is what relative paths mean. Raises TrimodeError."""
    check(config)
    found = survey(config, cwd)
    states = settle(plan(config, found), config.fresh)
    if config.dry_run:
        as_what = dry_run.as_json if config.json else dry_run.as_text
        print(as_what(config, found, states))
        return OK
    jobs = [state.spec for state in states if state.progress is not Progress.SKIPPED]
    say_skipped(states)
    if jobs:
        preflight(config, found, jobs)
        ensure_worker_packages(config)
    out_dir = absolute(config.out_dir, cwd)
    if config.cluster.executor is Executor.local or not jobs:
        failed = run_here(jobs, function)
        print_report([state.spec for state in states], out_dir)
        return FAILED if failed else OK
    return run_on_slurm(config, jobs, out_dir, function)


def say_skipped(states: Sequence[JobState]) -> None:
    """Names what is finished already."""
    for state in states:
        if state.progress is Progress.SKIPPED:
            print(f"{state.spec.name}: finished before, skipped: {state.spec.run_dir}", file=sys.stderr)


def run_here(jobs: Sequence[JobSpec], function: str) -> list[JobSpec]:
    """Local jobs to their end; returns those that failed."""
    owner = this_process()
    take(jobs, owner)
    try:
        return run_local(jobs, owner, function)
    finally:
        give_back(jobs, owner)


def run_on_slurm(config: Config, jobs: Sequence[JobSpec], out_dir: Path, function: str) -> int:
    """Submits, and waits when asked to."""
    owner = this_process()
    take(jobs, owner)
    try:
        submitted = submit_arrays(jobs, owner, function)
    except SubmissionError:
        give_back(jobs, owner)
        raise
    for item in submitted:
        print(f"submitted {item.job_id} ({item.spec.name}): {item.spec.run_dir}", flush=True)
    ids = ",".join(dict.fromkeys(item.job_id.partition("_")[0] for item in submitted))
    watch = f"next: squeue --jobs={ids}    then: {sys.executable} -m trimode.pipeline.report {out_dir}"
    if not config.wait:
        print(watch)
        return OK
    try:
        failed = wait(submitted)
    except KeyboardInterrupt:
        print(f"no longer waiting; the jobs go on. {watch}", file=sys.stderr)
        return FAILED
    print_report([item.spec for item in submitted], out_dir)
    return FAILED if failed else OK


def take(jobs: Sequence[JobSpec], owner: Owner) -> None:
    """Claims every run folder of the jobs and writes what is planned there; all of them or, on an error, none."""
    taken: list[JobSpec] = []
    try:
        for run_dir in dict.fromkeys(job.run_dir for job in jobs):
            here = [job for job in jobs if job.run_dir == run_dir]
            claim(Path(run_dir), owner)
            taken += here
            write_json_atomic(RunPaths(Path(run_dir)).plan, {"jobs": [dataclasses.asdict(job) for job in here]})
    except BaseException:
        give_back(taken, owner)
        raise


def give_back(jobs: Sequence[JobSpec], owner: Owner) -> None:
    """Ends the claims of this process; folders handed over to Slurm jobs stay theirs."""
    for run_dir in dict.fromkeys(job.run_dir for job in jobs):
        release(Path(run_dir), owner.token)


def print_report(jobs: Sequence[JobSpec], out_dir: Path) -> None:
    """The sweep's table on stdout, remarks on stderr, and report.html and report.md in `out_dir`.

    A process of its own, so that planning does not pay for the drawing library; a report that fails fails no job.
    """
    folders = [folder for folder in dict.fromkeys(job.run_dir for job in jobs) if Path(folder).is_dir()]
    if folders:
        sys.stdout.flush()
        page = str(out_dir / "report.html")
        subprocess.run([sys.executable, "-m", "trimode.pipeline.report", *folders, "--html", page], check=False)
