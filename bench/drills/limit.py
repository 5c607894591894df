"""`python -m trimode.bench.drills.limit`: a sweep whose jobs meet their time limit, left alone until its report.

Beside it runs the same sweep with time enough. Prints what the first command printed, the runs of its jobs, and how the
rows of the two differ. It takes about a quarter of an hour, since Slurm waits two minutes before it starts a job again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from trimode.bench.drills.cluster import SETTINGS, running_cluster
from trimode.bench.drills.compare import Difference, difference, read_run
from trimode.core.errors import FAILED, WorkerError, guarded
from trimode.core.project import PROJECT_DIR, child_environment
from trimode.core.protocol import Mode
from trimode.pipeline.run_folder.paths import RunPaths

BENCHMARKS = ("demo-math", "demo-mcq")
ENOUGH_MIN = 60
"""Time limit of the sweep beside."""


def parser() -> argparse.ArgumentParser:
    """Returns the command's flags."""
    flags = argparse.ArgumentParser(prog="python -m trimode.bench.drills.limit", description=__doc__)
    flags.add_argument("--minutes", type=int, default=3, metavar="N", help="time limit of the jobs (3)")
    flags.add_argument(
        "--repeats", type=int, default=3, metavar="N", help="of demo-math; demo-mcq has twice as many (3)"
    )
    flags.add_argument("--folder", type=Path, metavar="DIR", help="keeps the output folders in it")
    return flags


def sweep(folder: Path, minutes: int, repeats: int) -> None:
    """Runs the sweep in a folder, and prints each line with the seconds since the start. Raises WorkerError."""
    folder.mkdir(parents=True, exist_ok=True)
    flags = ["--mode", "all", "--benchmarks", f"demo-math:{repeats},demo-mcq:{2 * repeats}", "--gpus", "2"]
    flags += ["--model", str(PROJECT_DIR / "assets" / "demo_model"), "--cluster", "bare", "--device", "cpu"]
    command = [sys.executable, "-u", "-m", "trimode.pipeline.eval", *flags, "--time", str(minutes)]
    began = time.monotonic()
    with subprocess.Popen(
        [*command, "--out-dir", "out", "--wait"],
        cwd=folder,
        env=child_environment(OMP_NUM_THREADS="1"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
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


def runs(run_dir: Path) -> list[str]:
    """Returns a line for each run of the job."""
    found = json.loads(RunPaths(run_dir).manifest.read_text(encoding="utf-8"))["jobs"]["0"]["runs"]
    return [
        f"run {run['restart_count'] + 1} of job {run['slurm_job_id']}: {run['start'][11:19]} to {run['end'][11:19]}, "
        f"{run['new_samples']} samples, {run['status']}" + (f" ({run['cause']})" if run["cause"] else "")
        for run in found
    ]


def beside(run_dir: Path, reference: Path) -> Difference:
    """Returns how the rows of two run folders differ."""
    found, calm = (read_run(each, BENCHMARKS, each) for each in (run_dir, reference))
    return difference(found, calm)


def show(folder: Path, reference: Path) -> bool:
    """Prints the runs and differences of each mode. Returns True if nothing was lost, doubled or other than it was."""
    clean = True
    for mode in Mode:
        run_dir, calm = run_dir_of(folder, mode.value), run_dir_of(reference, mode.value)
        found = beside(run_dir, calm)
        rows = len(read_run(run_dir, BENCHMARKS, run_dir).rows)
        completed = "COMPLETED" if RunPaths(run_dir).completed(0).exists() else "not completed"
        print(f"{mode.value}: {completed}, {rows} rows", *runs(run_dir), sep="\n  ")
        print(
            f"  beside the sweep with time enough: {found.lost} lost, {found.doubled} doubled, "
            f"{found.wrong_verdicts} other verdicts, {found.other_rows} other rows"
        )
        print(*(f"  {detail}" for detail in found.details[:5]), sep="\n", end="\n" if found.details else "")
        clean &= completed == "COMPLETED" and not (found.details or found.doubled)
    return clean


def run(argv: Sequence[str]) -> int:
    """The command. Returns 0 if the sweep ended as the one with time enough."""
    arguments = parser().parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="trimode-limit-") as made, running_cluster(SETTINGS):
        folder = arguments.folder or Path(made)
        sweep(folder / "limited", arguments.minutes, arguments.repeats)
        sweep(folder / "enough", ENOUGH_MIN, arguments.repeats)
        return 0 if show(folder / "limited", folder / "enough") else FAILED


if __name__ == "__main__":
    sys.exit(guarded(lambda: run(sys.argv[1:])))
