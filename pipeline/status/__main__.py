"""Shows how jobs stand: python -m trimode.pipeline.status [show|logs|cancel] [DIR] [--watch] [--json].

show: a line per job with its state, samples, speed and time left; the whole cause of what failed. logs: the end of each
job's log. cancel: ends the living Slurm jobs; the same command goes on later. DIR holds run folders or is one.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from trimode.core.command import run_command
from trimode.core.errors import ConfigError, WorkerError, guarded
from trimode.core.files import tail
from trimode.pipeline.launch.living import tidy
from trimode.pipeline.launch.view import JobView, Stage, run_dirs_below, views
from trimode.pipeline.run_folder.provenance import now

LOG_LINES = 20
FIRST_PAUSE_S, LONGEST_PAUSE_S = 2.0, 30.0
"""Seconds between two looks with --watch: more while nothing changes."""
LIVING = (Stage.PENDING, Stage.RUNNING)
OVER = (Stage.FAILED, Stage.ENDED)


def as_text(jobs: Sequence[JobView]) -> str:
    """Returns a line per job, grouped by run folder, and the causes of what failed in full."""
    lines: list[str] = []
    folder = None
    width = max((len(job.spec.name) for job in jobs), default=0)
    for job in jobs:
        if job.spec.run_dir != folder:
            folder = job.spec.run_dir
            lines.append(folder)
        lines.append(f"  {job.spec.name:<{width}}  {job.job_id or 'local':<12}  {job.line()}")
        if job.stage is Stage.FAILED:
            lines += [f"      {line}" for line in job.detail.splitlines()]
            lines.append(f"      log: {job.log}")
    again = dict.fromkeys(job.command for job in jobs if job.stage in OVER and job.command)
    lines += [f"what is left goes on with: {command}" for command in again]
    counts = {stage: sum(job.stage is stage for job in jobs) for stage in Stage}
    lines.append(", ".join(f"{count} {stage}" for stage, count in counts.items() if count) or "no jobs")
    return "\n".join(lines)


def as_json(jobs: Sequence[JobView]) -> str:
    """Returns a list with one object per job."""
    rows = [
        {
            "run_dir": job.spec.run_dir,
            "name": job.spec.name,
            "group": job.spec.index,
            "benchmarks": [task.benchmark for task in job.spec.tasks],
            "slurm_job_id": job.job_id,
            "follow_ups": list(job.follow_ups),
            "command": job.command,
            "state": job.stage.value,
            "detail": job.detail,
            "done": job.done,
            "total": job.total,
            "log": str(job.log),
        }
        for job in jobs
    ]
    return json.dumps(rows, indent=2)


def logs(jobs: Sequence[JobView]) -> str:
    """Returns the end of each job's log."""
    parts = [f"==> {job.spec.name}: {job.log}\n{tail(job.log, LOG_LINES) or '(nothing yet)'}" for job in jobs]
    return "\n".join(parts)


def cancel(jobs: Sequence[JobView]) -> str:
    """Cancels the living Slurm jobs. Returns what was done. WorkerError with scancel's message if it fails."""
    living = [job for job in jobs if job.job_id is not None and job.stage in LIVING]
    ids = [job_id for job in living for job_id in (job.job_id, *job.follow_ups) if job_id is not None]
    if not ids:
        return "no Slurm job is waiting or running"
    try:
        done = subprocess.run(["scancel", *ids], capture_output=True, text=True, check=False)
    except OSError as error:
        raise WorkerError(f"scancel cannot be run: {error}") from None
    if done.returncode:
        raise WorkerError(f"scancel failed: {done.stderr.strip()}")
    return f"cancelled: {', '.join(ids)}; what is finished stays, and the same command goes on"


def watch(look: Callable[[], list[JobView]], pause: Callable[[float], None] = time.sleep) -> None:
    """Prints the jobs again whenever something has changed, until none waits or runs."""
    shown, pause_s = "", FIRST_PAUSE_S
    while True:
        jobs = look()
        text = as_text(jobs)
        if text != shown:
            clear = "\x1b[2J\x1b[H" if sys.stdout.isatty() else ""
            print(f"{clear}{now()}\n{text}", flush=True)
            shown, pause_s = text, FIRST_PAUSE_S
        else:
            pause_s = min(LONGEST_PAUSE_S, 1.5 * pause_s)
        if not any(job.stage in LIVING for job in jobs):
            return
        pause(pause_s)


def run(argv: Sequence[str] | None) -> int:
    """Everything after parsing. Returns 0. Raises ConfigError if there is no run folder."""
    parser = argparse.ArgumentParser(prog="python -m trimode.pipeline.status", description=__doc__)
    parser.add_argument("command", nargs="?", choices=("show", "logs", "cancel"), default="show")
    parser.add_argument("folder", nargs="?", type=Path, default=Path("eval_suit_results"))
    parser.add_argument("--watch", action="store_true", help="show again whenever something changes")
    parser.add_argument("--json", action="store_true", help="machine-readable")
    given = sys.argv[1:] if argv is None else argv
    words = [word for word in given if not word.startswith("-")]
    if words and words[0] not in ("show", "logs", "cancel"):
        words.insert(0, "show")
    options = parser.parse_args([*(word for word in given if word.startswith("-")), *words])

    def look() -> list[JobView]:
        return views(run_dirs_below(options.folder))

    if not options.folder.is_dir() or not run_dirs_below(options.folder):
        raise ConfigError(
            f"status: no run folder in {options.folder}; valid: the --out-dir of a sweep, or a run folder"
        )
    if options.command == "cancel":
        print(cancel(look()))
    elif options.command == "logs":
        print(logs(look()))
    elif options.watch:
        watch(look)
    else:
        print((as_json if options.json else as_text)(look()))
    if (options.folder / ".submitit").is_dir():
        tidy(options.folder)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns the exit status."""
    return guarded(lambda: run(argv))


if __name__ == "__main__":
    run_command(main)
