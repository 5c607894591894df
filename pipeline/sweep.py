"""One sweep from its typed config to an exit status: check, survey, plan, then dry run, local run or submission.

Only the dry run, the report and what to type next go to stdout.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from trimode.core.errors import FAILED, Stopped, SubmissionError, guarded
from trimode.core.files import locked
from trimode.pipeline.config.checks import check
from trimode.pipeline.config.schema import Config
from trimode.pipeline.launch import dry_run
from trimode.pipeline.launch.call import Launcher
from trimode.pipeline.launch.living import leave_out_living, living_jobs, write_plan
from trimode.pipeline.launch.local import run_local
from trimode.pipeline.launch.owner import Owner, claim, read_owner, release, this_process
from trimode.pipeline.launch.preflight import ensure_worker_packages, preflight
from trimode.pipeline.launch.submit import Submitted, submit_arrays, wait
from trimode.pipeline.plan.jobs import plan
from trimode.pipeline.plan.rounds import JobProgress, JobState, continue_or_start
from trimode.pipeline.plan.survey import Survey, absolute, survey
from trimode.pipeline.price.calibrate import calibration, longer
from trimode.pipeline.price.measured import measured_runs
from trimode.pipeline.price.sweep_price import sweep_price
from trimode.pipeline.spec import Executor, JobSpec

OK = 0
"""Exit status of a sweep whose jobs have all completed, or have been submitted."""


def guarded_sweep(command: Callable[[], int]) -> int:
    """Runs a command that is a sweep. Returns its exit status, also after an error, a signal or a closed pipe."""
    try:
        return guarded(command)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader of stdout has seen enough
        return OK
    except (Stopped, KeyboardInterrupt) as error:
        name = error.signal_name if isinstance(error, Stopped) else "Ctrl-C"
        print(f"stopped by {name}; the same command goes on where this one ended", file=sys.stderr)
        return FAILED


def run(config: Config, cwd: Path, launcher: Launcher | None = None, again: bool = False) -> int:
    """Runs a sweep and returns its exit status. Relative paths start at `cwd`. Raises TrimodeError.

    Without `launcher` this process owns the run folders and the jobs run `run_job`. A local calibration that was over
    too soon runs a second time, longer (`again`).
    """
    check(config)
    asked = config
    if config.calibrate:
        config = calibrating(config, cwd)
    found = survey(config, cwd)
    states = continue_or_start(plan(config, found), config.fresh)
    say_notes(states)
    if config.dry_run:
        print_dry_run(config, found, states)
        return OK
    jobs = [state.spec for state in states if state.progress is not JobProgress.SKIPPED]
    say_skipped(states)
    if jobs:
        preflight(config, found, jobs)
        ensure_worker_packages(config)
    out_dir = absolute(config.out_dir, cwd)
    launcher = launcher or Launcher(this_process())
    if config.cluster.executor is Executor.local or not jobs:
        failed = run_here(jobs, launcher, config.take_over)
        if config.calibrate and jobs and not failed and not again:
            return run(dataclasses.replace(asked, fresh=False), cwd, launcher, again=True)
        print_report([state.spec for state in states], out_dir)
        return FAILED if failed else OK
    return run_on_slurm(config, jobs, out_dir, launcher)


def calibrating(config: Config, cwd: Path) -> Config:
    """Returns the calibration of a sweep: more samples than at first where an earlier one was over too soon."""
    small = calibration(config)
    runs = measured_runs(absolute(config.out_dir, cwd))
    return longer(small, config.limit, plan(small, survey(small, cwd)), runs) if runs else small


def print_dry_run(config: Config, found: Survey, states: Sequence[JobState]) -> None:
    """Prints what a run would do and, as far as it is measured, what it costs."""
    price = sweep_price(states, absolute(config.out_dir, found.cwd))
    if config.json:
        print(dry_run.as_json(config, found, states, price.to_json() if price else None))
    else:
        print(dry_run.as_text(config, found, states, price.lines() if price else ()))


def say_notes(states: Sequence[JobState]) -> None:
    """Prints why a job does not go on in the newest folder of its name."""
    for state in states:
        if state.note:
            print(f"note: {state.spec.name}: {state.note}; used instead: {state.spec.run_dir}", file=sys.stderr)


def say_skipped(states: Sequence[JobState]) -> None:
    """Prints the jobs that are skipped because they are finished."""
    for state in states:
        if state.progress is JobProgress.SKIPPED:
            print(f"{state.spec.name}: finished before, skipped: {state.spec.run_dir}", file=sys.stderr)


def run_here(jobs: Sequence[JobSpec], launcher: Launcher, take_over: bool) -> list[JobSpec]:
    """Runs local jobs to their end. Returns those that failed."""
    take(jobs, launcher.owner, take_over)
    try:
        return run_local(jobs, launcher)
    finally:
        give_back(jobs, launcher.owner)


def run_on_slurm(config: Config, jobs: Sequence[JobSpec], out_dir: Path, launcher: Launcher) -> int:
    """Submits what no living job works on, and waits for it if the config says so. Returns the exit status."""
    submitted = submit(config, jobs, out_dir, launcher)
    if not submitted:
        print("nothing is left to submit: living jobs work on all of it", file=sys.stderr)
        return OK
    for item in submitted:
        print(f"submitted {item.job_id} ({item.spec.name}): {item.spec.run_dir}", flush=True)
    python = f"{sys.executable} -m trimode.pipeline"
    watch = f"next: {python}.status --watch {out_dir}    then: {python}.report {out_dir}"
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


def submit(config: Config, jobs: Sequence[JobSpec], out_dir: Path, launcher: Launcher) -> list[Submitted]:
    """Submits what no living job works on, and says what is left out. One command at a time does so in `out_dir`."""
    with locked(out_dir / ".submit.lock"):
        living = living_jobs(dict.fromkeys(job.run_dir for job in jobs))
        jobs, left_out = leave_out_living(jobs, living)
        for item in left_out:
            print(item, file=sys.stderr)
        tokens = {run_dir: owner.token for run_dir in living if (owner := read_owner(Path(run_dir))) is not None}
        launcher = dataclasses.replace(launcher, tokens=tokens)
        take([job for job in jobs if job.run_dir not in tokens], launcher.owner, config.take_over)
        try:
            submitted = submit_arrays(jobs, launcher)
        except SubmissionError:
            give_back(jobs, launcher.owner)
            raise
        for run_dir in dict.fromkeys(item.spec.run_dir for item in submitted):
            here = [(item.spec, item.job_id) for item in submitted if item.spec.run_dir == run_dir]
            write_plan(Path(run_dir), living.get(run_dir, []), here)
    return submitted


def take(jobs: Sequence[JobSpec], owner: Owner, take_over: bool = False) -> None:
    """Claims every run folder of the jobs and writes plan.json there. On an error no folder stays claimed.

    `take_over`: also from owners that cannot be asked.
    """
    taken: list[JobSpec] = []
    try:
        for run_dir in dict.fromkeys(job.run_dir for job in jobs):
            here = [job for job in jobs if job.run_dir == run_dir]
            claim(Path(run_dir), owner, take_over)
            taken += here
            write_plan(Path(run_dir), [], [(job, None) for job in here])
    except BaseException:
        give_back(taken, owner)
        raise


def give_back(jobs: Sequence[JobSpec], owner: Owner) -> None:
    """Ends the claims of this process. Folders handed over to Slurm jobs stay theirs."""
    for run_dir in dict.fromkeys(job.run_dir for job in jobs):
        release(Path(run_dir), owner.token)


def print_report(jobs: Sequence[JobSpec], out_dir: Path) -> None:
    """Prints the sweep's table on stdout and remarks on stderr, and writes report.html and report.md in `out_dir`.

    It runs in a process of its own, so that planning need not import the drawing library. If it fails, no job does.
    """
    folders = [folder for folder in dict.fromkeys(job.run_dir for job in jobs) if Path(folder).is_dir()]
    if folders:
        sys.stdout.flush()
        page = str(out_dir / "report.html")
        subprocess.run([sys.executable, "-m", "trimode.pipeline.report", *folders, "--html", page], check=False)
