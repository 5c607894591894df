"""Measures the GPU path: `bash bench/gpu.sh [--dry-run] [--out FOLDER] [--only SECTION ...]`.

Every section runs in a process of its own and ends at its deadline, so that a failure or a hang costs only itself. What
is cut is named. The whole takes less than nine minutes.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from trimode.bench.gpu.goals import judge
from trimode.bench.gpu.records import Findings, Note, append, read
from trimode.bench.gpu.report import DRY_RUN, Ended, goal_row, write
from trimode.bench.gpu.sections import SECTIONS, TOTAL_S, Section, deadlines
from trimode.core.command import run_command
from trimode.core.project import PROJECT_DIR

GRACE_S = 3.0
"""Seconds that a section gets after its deadline to end the measurement that it has begun."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs all sections. Returns 1 if one of them failed, otherwise 0; a goal that is missed is no failure."""
    parser = argparse.ArgumentParser(prog="bash bench/gpu.sh", description=__doc__)
    names = [section.name for section in SECTIONS]
    parser.add_argument("--out", type=Path, default=PROJECT_DIR / "outputs" / "gpu", help="folder of the results")
    parser.add_argument("--dry-run", action="store_true", help="run everything at a tiny size on the CPU")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="SECTION", help=", ".join(names))
    parser.add_argument(
        "--total", type=float, default=TOTAL_S, help=f"seconds for all sections (default {TOTAL_S:.0f})"
    )
    options = parser.parse_args(argv)
    folder: Path = options.out.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if options.dry_run:
        print(DRY_RUN, flush=True)
    began = time.monotonic()
    ends = deadlines(options.total)
    for section in SECTIONS:
        if section.name in options.only:
            file_of(folder, section).unlink(missing_ok=True)
    ended = [
        run_section(section, folder, began + ends[section.name], dry=options.dry_run)
        for section in SECTIONS
        if section.name in options.only
    ]
    found = read(file_of(folder, section) for section in SECTIONS)
    paths = write(folder, found, ended, dry=options.dry_run)
    _print_summary(found, ended, dry=options.dry_run)
    print(f"{time.monotonic() - began:.0f} s; wrote {paths[0]} and {paths[1]}", flush=True)
    return 1 if any(section.status != "done" for section in ended) or _failures(found) else 0


def file_of(folder: Path, section: Section) -> Path:
    """Returns where a section's findings go."""
    return folder / f"{section.name}.jsonl"


def run_section(section: Section, folder: Path, deadline: float, *, dry: bool) -> Ended:
    """Runs one section in a process group of its own and ends it after its deadline.

    Args:
        section: to run.
        folder: of all findings.
        deadline: of `time.monotonic`, which is the same clock in every process of a machine.
        dry: True for a dry run.
    """
    print(f"\n== {section.name}: {max(0.0, deadline - time.monotonic()):.0f} s", flush=True)
    began = time.monotonic()
    file = file_of(folder, section)
    environment = dict(os.environ)
    environment.pop("TRITON_INTERPRET", None)
    if dry and section.interpreted:
        environment["TRITON_INTERPRET"] = "1"
    command = [sys.executable, "-m", "trimode.bench.gpu.section", section.name, str(folder), f"{deadline:.3f}"]
    process = subprocess.Popen([*command, *(["--dry-run"] if dry else [])], env=environment, start_new_session=True)
    try:
        status = "done" if process.wait(timeout=max(1.0, deadline + GRACE_S - began)) == 0 else "failed"
    except subprocess.TimeoutExpired:
        status = "stopped"
        append(file, Note(kind="cut", text=f"{section.name}: stopped at its deadline, what came after is missing"))
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if status == "failed":
        append(file, Note(kind="failure", text=f"{section.name}: ended with status {process.returncode}"))
    return Ended(name=section.name, seconds=time.monotonic() - began, status=status)


def _failures(found: Findings) -> list[str]:
    return [note.text for note in found.notes if note.kind == "failure"]


def _print_summary(found: Findings, ended: Sequence[Ended], *, dry: bool) -> None:
    print("\n== summary")
    for section in ended:
        print(f"{section.name}: {section.status} in {section.seconds:.1f} s")
    for note in found.notes:
        if note.kind in ("cut", "failure"):
            print(f"{note.kind}: {note.text}")
    for goal in judge(found):
        print("goal | " + " | ".join(cell for cell in goal_row(goal, dry=dry) if cell))
    if dry:
        print(DRY_RUN)


if __name__ == "__main__":
    run_command(main)
