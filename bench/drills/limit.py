"""`python -m trimode.bench.drills.limit`: a sweep whose jobs meet their time limit, left alone until its report.

The same sweep with time enough runs first. It says how many answers the jobs need to meet the limit on this machine.
Prints what both commands printed, the runs of the jobs, and how the rows of the two differ. It takes about a quarter of
an hour, since Slurm waits two minutes before it starts a job again.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from trimode.bench.drills.cluster import SETTINGS, running_cluster
from trimode.bench.drills.compare import Difference, difference, read_run
from trimode.core.command import UNREAD, run_command
from trimode.core.errors import FAILED, WorkerError, guarded
from trimode.core.project import PROJECT_DIR, child_environment
from trimode.pipeline.run_folder.paths import RunPaths

MODES = ("ar", "dlm", "linear_spec")
"""What `--mode all` runs."""
BENCHMARKS = ("demo-math", "demo-mcq")
ENOUGH_MIN = 60
"""Time limit of the sweep beside."""
MOST_REPEATS = 60
TIMES = 1.5
"""How many time limits the longest job is to work. It has less than one of them in each run."""


def parser() -> argparse.ArgumentParser:
    """Returns the command's flags."""
    flags = argparse.ArgumentParser(prog="python -m trimode.bench.drills.limit", description=__doc__)
    flags.add_argument("--minutes", type=int, default=3, metavar="N", help="time limit of the jobs (3)")
    flags.add_argument(
        "--repeats",
        type=int,
        default=3,
        metavar="N",
        help="fewest repeats of demo-math (3); demo-mcq has twice as many. More where no job would meet its limit",
    )
    flags.add_argument("--folder", type=Path, metavar="DIR", help="keeps the output folders in it")
    return flags


def sweep(folder: Path, minutes: int, repeats: int) -> None:
    """Runs the sweep in a folder, and prints each line with the seconds since the start. Raises WorkerError."""
    folder.mkdir(parents=True, exist_ok=True)
    flags = ["--mode", "all", "--benchmarks", f"demo-math:{repeats},demo-mcq:{2 * repeats}", "--gpus", "2"]
    flags += ["--model", str(PROJECT_DIR / "assets" / "demo_model"), "--cluster", "bare", "--device", "cpu"]
    command = [sys.executable, "-u", "-m", "trimode.pipeline.eval", *flags, "--time", str(minutes)]
    print(f"--benchmarks demo-math:{repeats},demo-mcq:{2 * repeats} --time {minutes}", flush=True)
    began = time.monotonic()
    with subprocess.Popen(
        [*command, "--out-dir", "out", "--wait"],
        cwd=folder,
        env=child_environment(OMP_NUM_THREADS="1"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(f"{time.monotonic() - began:5.0f} s  {line}", end="", flush=True)
    if process.returncode:
        raise WorkerError(f"the sweep with --time {minutes} ended with exit status {process.returncode}")


def run_dir_of(folder: Path, mode: str) -> Path:
    """Returns the run folder of a mode."""
    [found] = (folder / "out").glob(f"*_{mode}_tok*/hf_base/eval_*")
    return found


def runs_of(run_dir: Path) -> list[dict[str, object]]:
    """Returns the runs of the job of a run folder, as its manifest has them."""
    found = json.loads(RunPaths(run_dir).manifest.read_text(encoding="utf-8"))["jobs"]["0"]["runs"]
    assert isinstance(found, list)
    return found


def seconds_of(run: dict[str, object]) -> float:
    """Returns how long a run took."""
    start, end = (datetime.datetime.fromisoformat(str(run[name])) for name in ("start", "end"))
    return (end - start).total_seconds()


def repeats_to_meet(folder: Path, minutes: int, repeats: int) -> int:
    """Returns the repeats with which a job meets a limit of so many minutes, from an undisturbed sweep of `repeats`."""
    longest = max(seconds_of(run) for mode in MODES for run in runs_of(run_dir_of(folder, mode)))
    return max(repeats, min(MOST_REPEATS, math.ceil(repeats * TIMES * 60 * minutes / max(longest, 1.0))))


def says(run: dict[str, object]) -> str:
    """Returns a run in one line."""
    cause = f" ({run['cause']})" if run["cause"] else ""
    restarts = run["restart_count"]
    assert isinstance(restarts, int)
    return (
        f"run {restarts + 1} of job {run['slurm_job_id']}: {str(run['start'])[11:19]} to {str(run['end'])[11:19]}, "
        f"{run['new_samples']} samples, {run['status']}{cause}"
    )


def beside(run_dir: Path, reference: Path) -> Difference:
    """Returns how the rows of two run folders differ."""
    found, calm = (read_run(each, BENCHMARKS, each) for each in (run_dir, reference))
    return difference(found, calm)


def show(folder: Path, reference: Path) -> bool:
    """Prints the runs and differences of each mode.

    Returns True if jobs met their limit, and nothing was lost, doubled or other than it was.
    """
    clean, met = True, 0
    for mode in MODES:
        run_dir, calm = run_dir_of(folder, mode), run_dir_of(reference, mode)
        found = beside(run_dir, calm)
        rows = len(read_run(run_dir, BENCHMARKS, run_dir).rows)
        completed = "COMPLETED" if RunPaths(run_dir).completed(0).exists() else "not completed"
        runs = runs_of(run_dir)
        met += sum(run["status"] == "interrupted" for run in runs)
        print(f"{mode}: {completed}, {rows} rows", *(says(run) for run in runs), sep="\n  ")
        print(
            f"  beside the sweep with time enough: {found.lost} lost, {found.doubled} doubled, "
            f"{found.wrong_verdicts} other verdicts, {found.other_rows} other rows"
        )
        print(*(f"  {detail}" for detail in found.details[:5]), sep="\n", end="\n" if found.details else "")
        clean &= completed == "COMPLETED" and not (found.details or found.doubled)
    print(f"the time limit ended {met} runs" if met else "no job has met its limit: more --repeats are needed")
    return clean and met > 0


def run(argv: Sequence[str]) -> int:
    """The command. Returns 0 if jobs met their limit and the sweep ended as the one with time enough."""
    arguments = parser().parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="trimode-limit-") as made, running_cluster(SETTINGS):
        folder, repeats = arguments.folder or Path(made), arguments.repeats
        sweep(folder / "enough", ENOUGH_MIN, repeats)
        needed = repeats_to_meet(folder / "enough", arguments.minutes, repeats)
        if needed > repeats:
            sweep(folder / "enough", ENOUGH_MIN, needed)
        sweep(folder / "limited", arguments.minutes, needed)
        return 0 if show(folder / "limited", folder / "enough") else FAILED


if __name__ == "__main__":
    run_command(lambda: guarded(lambda: run(sys.argv[1:])), unfinished=UNREAD)
