"""The sweeps of one command from their typed configs to an exit status.

Check, survey, plan, then dry run, local run or submission. Only the dry run, the report and what to type next go to
stdout.
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from trimode.core.counted import counted
from trimode.core.errors import FAILED, ConfigError, Stopped, guarded
from trimode.core.files import locked
from trimode.pipeline.config.checks import check
from trimode.pipeline.config.schema import Config
from trimode.pipeline.launch import dry_run
from trimode.pipeline.launch.call import Launcher
from trimode.pipeline.launch.claims import claim_all, give_back, take
from trimode.pipeline.launch.living import (
    SUBMIT_LOCK,
    LivingJob,
    forget_ended,
    leave_out_living,
    living_jobs,
    owners_of,
    slurm_states,
    write_plan,
)
from trimode.pipeline.launch.local import run_local
from trimode.pipeline.launch.owner import this_process
from trimode.pipeline.launch.preflight import ensure_worker_packages, preflight
from trimode.pipeline.launch.submit import Again, Submitted, submit_arrays, wait
from trimode.pipeline.launch.typed import typed_command
from trimode.pipeline.plan.jobs import plan
from trimode.pipeline.plan.rounds import JobProgress, JobState
from trimode.pipeline.plan.survey import absolute, survey
from trimode.pipeline.plan.sweeps import PlannedSweep, plan_sweeps
from trimode.pipeline.price.calibrate import calibration, longer
from trimode.pipeline.price.measured import measured_runs
from trimode.pipeline.price.sweep_price import sweep_price
from trimode.pipeline.run_folder.paths import RunPaths
from trimode.pipeline.run_folder.submission import submissions
from trimode.pipeline.spec import Executor, JobSpec

OK = 0
"""Exit status of a sweep whose jobs have all completed, or have been submitted."""


def guarded_sweep(command: Callable[[], int]) -> int:
    """Runs a command that is a sweep. Returns its exit status, also after an error or a signal."""
    try:
        return guarded(command)
    except (Stopped, KeyboardInterrupt) as error:
        name = error.signal_name if isinstance(error, Stopped) else "Ctrl-C"
        print(f"stopped by {name}; the same command goes on where this one ended", file=sys.stderr)
        return FAILED


def run(config: Config, cwd: Path, launcher: Launcher | None = None, again: bool = False) -> int:
    """Runs a sweep and returns its exit status. Relative paths start at `cwd`. Raises TrimodeError.

    Without `launcher` this process owns the run folders and the jobs run `run_job`. A local calibration that was over
    too soon runs a second time, longer (`again`).
    """
    return run_all([config], cwd, launcher, again)


def run_all(configs: Sequence[Config], cwd: Path, launcher: Launcher | None = None, again: bool = False) -> int:
    """Runs the sweeps of one command as `run` does. Under Slurm they are planned, checked and submitted together.

    On this machine they run one after another, up to the first that fails.
    """
    for config in configs:
        check(config)
    asked, configs = configs, [calibrating(config, cwd) if config.calibrate else config for config in configs]
    shown = any(config.dry_run for config in configs)
    if len(configs) > 1 and not shown and any(config.cluster.executor is Executor.local for config in configs):
        return next((status for config in asked if (status := run(config, cwd, launcher))), OK)
    sweeps = plan_sweeps(configs, cwd)
    for sweep in sweeps:
        say_notes(sweep.states)
    if shown:
        print_dry_run(sweeps, cwd)
        return OK
    for sweep in sweeps:
        say_skipped(sweep.states)
    look_before(sweeps)
    launcher = launcher or Launcher(this_process(), command=typed_command())
    status = OK
    for out_dir in dict.fromkeys(absolute(config.out_dir, cwd) for config in configs):
        here = [sweep for sweep in sweeps if absolute(sweep.config.out_dir, cwd) == out_dir]
        status = run_in(out_dir, here, launcher) or status
    short = asked[0].calibrate and configs[0].cluster.executor is Executor.local and any(sweep.jobs for sweep in sweeps)
    if short and status == OK and not again:
        return run(dataclasses.replace(asked[0], fresh=False), cwd, launcher, again=True)
    return status


def look_before(sweeps: Sequence[PlannedSweep]) -> None:
    """Checks what only a real run needs, for all sweeps that have something left to run; each data file once."""
    seen: set[tuple[str, str | None]] = set()
    starting = [sweep for sweep in sweeps if sweep.jobs]
    for sweep in starting:
        unseen = [
            dataclasses.replace(
                job, tasks=tuple(task for task in job.tasks if (task.benchmark, job.data_dir) not in seen)
            )
            for job in sweep.jobs
        ]
        preflight(sweep.config, sweep.survey, unseen)
        seen |= {(task.benchmark, job.data_dir) for job in unseen for task in job.tasks}
    if starting:
        ensure_worker_packages(starting[0].config)


def run_in(out_dir: Path, sweeps: Sequence[PlannedSweep], launcher: Launcher) -> int:
    """Runs or submits the sweeps of one output folder. Returns the exit status. ConfigError if it cannot be made."""
    config = sweeps[0].config
    jobs = [job for sweep in sweeps for job in sweep.jobs]
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"output folder {out_dir}: {error.strerror}; valid: a folder that you may make and write (--out-dir)"
        ) from None
    if config.cluster.executor is Executor.local or not jobs:
        failed = run_here(jobs, launcher, config.take_over)
        print_report([state.spec for sweep in sweeps for state in sweep.states], out_dir)
        return FAILED if failed else OK
    return run_on_slurm(config, jobs, out_dir, launcher)


def calibrating(config: Config, cwd: Path) -> Config:
    """Returns the calibration of a sweep: more samples than at first where an earlier one was over too soon."""
    small = calibration(config)
    runs = measured_runs(absolute(config.out_dir, cwd))
    return longer(small, config.limit, plan(small, survey(small, cwd)), runs) if runs else small


def print_dry_run(sweeps: Sequence[PlannedSweep], cwd: Path) -> None:
    """Prints what a run would do and, as far as it is measured, what it costs."""
    states = [state for sweep in sweeps for state in sweep.states]
    price = sweep_price(states, absolute(sweeps[0].config.out_dir, cwd))
    if sweeps[0].config.json:
        print(dry_run.as_json(sweeps, price.to_json() if price else None))
    else:
        print(dry_run.as_text(sweeps, price.lines() if price else ()))


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
    take(jobs, launcher, take_over)
    try:
        return run_local(jobs, launcher)
    finally:
        give_back(jobs, launcher.owner)


def run_on_slurm(config: Config, jobs: Sequence[JobSpec], out_dir: Path, launcher: Launcher) -> int:
    """Submits what no living job works on, and waits for it if the config says so. Returns the exit status."""
    submitted, left = submit(config, jobs, out_dir, launcher)
    if not submitted and not left:
        print("nothing is left to submit: living jobs work on all of it", file=sys.stderr)
        return OK
    say_submitted(submitted, left)
    python = f"{sys.executable} -m trimode.pipeline"
    watch = f"next: {python}.status --watch {out_dir}    then: {python}.report {out_dir}"
    if not config.wait:
        print(watch)
        return FAILED if left else OK
    done, failed = list(submitted), False

    def once_more(spec: JobSpec) -> Submitted | None:
        more, _ = submit(config, [spec], out_dir, launcher)
        say_submitted(more, ())
        return more[0] if more else None

    again = Again(once_more)
    try:
        failed = bool(wait(submitted, again=again))
        while left and submitted:
            submitted, left = submit(config, left, out_dir, launcher)
            say_submitted(submitted, left)
            failed = bool(wait(submitted, again=again)) or failed
            done += submitted
    except KeyboardInterrupt:
        print(f"no longer waiting; the jobs go on. {watch}", file=sys.stderr)
        return FAILED
    print_report([item.spec for item in done], out_dir)
    if (failed or left) and launcher.command:
        print(f"what is left goes on with: {launcher.command}", file=sys.stderr)
    return FAILED if failed or left else OK


def say_submitted(submitted: Sequence[Submitted], left: Sequence[JobSpec]) -> None:
    """Prints the jobs that Slurm has accepted, and how many it does not take now."""
    for item in submitted:
        then = f", then {', '.join(item.follow_ups)} as needed" if item.follow_ups else ""
        print(f"submitted {item.job_id} ({item.spec.name}{then}): {item.spec.run_dir}", flush=True)
    if left:
        print(
            f"{counted(len(left), 'job is', 'jobs are')} not submitted: Slurm takes no more of this user now "
            "(MaxSubmitJobs); the same command submits them when others have ended",
            file=sys.stderr,
        )


def submit(
    config: Config, jobs: Sequence[JobSpec], out_dir: Path, launcher: Launcher
) -> tuple[list[Submitted], list[JobSpec]]:
    """Submits what no living job works on, and says what is left out. One command at a time does so in `out_dir`.

    Returns the submitted jobs, and those beyond the number that the user may have in Slurm.
    """
    with locked(out_dir / SUBMIT_LOCK):
        owners = owners_of(dict.fromkeys(job.run_dir for job in jobs))
        states = slurm_states(owners.values(), submissions(out_dir))
        living = living_jobs(owners, states)
        jobs, left_out = leave_out_living(jobs, living)
        for item in left_out:
            print(item, file=sys.stderr)
        tokens = {run_dir: owners[run_dir].token for run_dir in living}
        launcher = dataclasses.replace(launcher, tokens=tokens)
        claim_all([job for job in jobs if job.run_dir not in tokens], launcher.owner, config.take_over, states)
        forget_ended(out_dir, states)
        submitted: list[Submitted] = []
        try:
            submit_arrays(jobs, launcher, submitted)
        finally:  # of what was submitted before a refusal, too
            give_back(jobs, launcher.owner)
            rewrite_plans(submitted, living, launcher.command)
    taken = {(item.spec.run_dir, item.spec.index) for item in submitted}
    return submitted, [job for job in jobs if (job.run_dir, job.index) not in taken]


def rewrite_plans(submitted: Sequence[Submitted], living: dict[str, list[LivingJob]], command: str) -> None:
    """Writes plan.json where one describes something else; elsewhere the files of the submission stand for it."""
    here: dict[str, list[tuple[JobSpec, str | None]]] = {}
    for item in submitted:
        here.setdefault(item.spec.run_dir, []).extend((item.spec, job_id) for job_id in item.job_ids)
    for run_dir, jobs in here.items():
        if run_dir in living or RunPaths(Path(run_dir)).plan.exists():
            write_plan(Path(run_dir), living.get(run_dir, []), jobs, command)


def print_report(jobs: Sequence[JobSpec], out_dir: Path) -> None:
    """Prints the sweep's table on stdout and remarks on stderr, and writes report.html and report.md in `out_dir`.

    It runs in a process of its own, so that planning need not import the drawing library. If it fails, no job does.
    """
    folders = [folder for folder in dict.fromkeys(job.run_dir for job in jobs) if Path(folder).is_dir()]
    if folders:
        sys.stdout.flush()
        page = str(out_dir / "report.html")
        subprocess.run([sys.executable, "-m", "trimode.pipeline.report", *folders, "--html", page], check=False)
