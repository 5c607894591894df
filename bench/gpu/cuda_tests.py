"""Section: the tests that need a GPU, with pytest in a process of its own. A dry run takes one file of other tests."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
import time

from trimode.bench.gpu.context import Bench
from trimode.bench.gpu.records import Record
from trimode.core.project import PROJECT_DIR

FOLDERS = ("tests/kernels", "tests/workers")
"""Where tests with the marker `cuda` lie."""
DRY = ("tests/kernels/test_rms_norm.py",)
ON_GPU = re.compile(r"mark\.cuda|\bgpu\b")
OUTCOME = re.compile(r"\b(PASSED|FAILED|ERROR|SKIPPED)\b")
PROCESSES = 12
"""Most test processes: their time goes into compiling kernels on the CPU."""
LEAVE_S = 1.0
"""Seconds before the deadline at which the tests are stopped."""


def run(bench: Bench) -> None:
    """Runs the tests and records how many passed and failed."""
    if importlib.util.find_spec("pytest") is None:
        bench.note("failure", "tests: pytest is not installed, so no test ran")
        return
    log = bench.file.with_suffix(".log")
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            command(dry=bench.plan.dry), cwd=PROJECT_DIR, stdout=output, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        try:
            process.wait(timeout=max(1.0, bench.deadline - LEAVE_S - time.monotonic()))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            bench.note("cut", f"tests: stopped at the end of the section's time, see {log.name}")
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    counts = outcomes(lines)
    for name, count in counts.items():
        bench.record(Record(name=f"tests {name}", value=count, unit="tests"))
    for text in failures(lines)[:20]:
        bench.note("failure", f"test: {text}")
    if process.returncode not in (0, 1, 5, -signal.SIGKILL):
        bench.note("failure", f"tests: pytest ended with status {process.returncode}, see {log.name}")


def command(*, dry: bool) -> list[str]:
    """Returns the call of pytest. A warning is no failure here: other versions than the locked ones run."""
    call = [sys.executable, "-m", "pytest", "-v", "-W", "default", "--continue-on-collection-errors"]
    if dry:
        return [*call, *DRY]
    if importlib.util.find_spec("xdist") is not None:
        call += ["-n", str(min(PROCESSES, os.cpu_count() or 1))]
    return [*call, "-m", "cuda", *files()]


def files() -> list[str]:
    """Returns the test files that may hold a test for a GPU. The others may need packages that the machine lacks."""
    paths = (path for folder in FOLDERS for path in sorted((PROJECT_DIR / folder).rglob("test_*.py")))
    return [str(path.relative_to(PROJECT_DIR)) for path in paths if ON_GPU.search(path.read_text(encoding="utf-8"))]


def outcomes(lines: list[str]) -> dict[str, int]:
    """Returns how many tests had each outcome, from the lines that pytest prints as it goes."""
    found = {"passed": 0, "failed": 0, "skipped": 0}
    for line in lines:
        match = OUTCOME.search(line)
        if match is None or "::" not in line or line.startswith(("FAILED", "ERROR", "SKIPPED")):
            continue  # no test, or the summary at the end
        name = match.group(1).lower()
        found["failed" if name == "error" else name] += 1
    return found


def failures(lines: list[str]) -> list[str]:
    """Returns what the summary says about each failed test."""
    return [line for line in lines if line.startswith(("FAILED", "ERROR"))]
