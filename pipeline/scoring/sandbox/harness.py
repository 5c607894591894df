"""Starts a judge for one answer, here or in the service that TRIMODE_SANDBOX names, and reads its verdict."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimode.core.project import PROJECT_DIR
from trimode.pipeline.scoring.sandbox.folders import sandbox_folder
from trimode.pipeline.scoring.sandbox.judge import message
from trimode.pipeline.scoring.sandbox.run import environment
from trimode.pipeline.scoring.sandbox.service import execute_remotely, service_url

BOOT = Path(__file__).with_name("boot.py")
BUNDLED = ("pipeline/scoring/sandbox", "pipeline/scoring/code")
"""Folders whose modules a judge may need. A service gets them with the task."""
REMOTE_START = """
import os, sys, tempfile
folder = tempfile.mkdtemp()
for name, text in FILES.items():
    os.makedirs(os.path.dirname(os.path.join(folder, name)), exist_ok=True)
    with open(os.path.join(folder, name), "w") as file:
        file.write(text)
os.makedirs(os.path.join(folder, "cwd"))
os.chdir(os.path.join(folder, "cwd"))
sys.argv = ["boot.py", folder, MODULE]
exec(compile(FILES["pipeline/scoring/sandbox/boot.py"], "boot.py", "exec"))
"""
MARGIN_S = 30.0
"""Seconds that a judge gets beyond the wall clock's limit, to say that it passed."""
OUTPUT_BYTES = 1 << 16
LOG_TAIL = 300
"""Last characters of a judge's stderr that an error message keeps."""


class NoVerdictError(Exception):
    """The judge reached no verdict on the answer."""


class WallClockError(NoVerdictError):
    """The wall clock's limit passed while the answer's CPU time was not used up: the machine was too busy."""


@dataclass(frozen=True, kw_only=True)
class JudgeLimits:
    """Limits of an answer that a judge calls."""

    wall_s: float
    """Wall-clock seconds for the whole row. Only a machine that gives an answer too little CPU time reaches them."""
    memory_bytes: int = 4 << 30
    """Address space."""
    file_bytes: int = 16 << 20
    """Largest size of one file."""
    folder_bytes: int = 64 << 20
    """Most bytes of all files."""
    num_files: int = 64
    """Open files."""


def run_judge(module: str, answer: dict[str, Any], tests: dict[str, Any], limits: JudgeLimits) -> dict[str, Any]:
    """Returns the verdict of a judge's module.

    The judge reads `answer` first and starts the answer's process with it, then `tests`, which that process never sees.
    Raises WallClockError if the answer got too little CPU time, and NoVerdictError if the judge failed.
    """
    task = message({**answer, "limits": dataclasses.asdict(limits)}) + message(tests)
    if url := service_url():
        outcome = execute_remotely(url, bundle(module), task, limits.wall_s + MARGIN_S, OUTPUT_BYTES)
        status, out, log = outcome["status"], outcome["stdout"], outcome["stderr"]
    else:
        status, out, log = _run_here(module, task, limits.wall_s + MARGIN_S)
    if status == "timeout":
        raise WallClockError(f"the judge took longer than {limits.wall_s + MARGIN_S:g} s")
    try:
        verdict = dict(json.loads(out.rstrip("\n").rpartition("\n")[2]))
    except (ValueError, TypeError) as error:
        raise NoVerdictError(f"the judge ended without a verdict: {log.strip()[-LOG_TAIL:]}") from error
    if "starved" in verdict:
        raise WallClockError(str(verdict["starved"]))
    if "unjudged" in verdict:
        raise NoVerdictError(str(verdict["unjudged"]))
    return verdict


def bundle(module: str) -> str:
    """Returns a program that runs a judge's module where trimode is not installed."""
    paths = [path for folder in BUNDLED for path in (PROJECT_DIR / folder).rglob("*.py")]
    files = {path.relative_to(PROJECT_DIR).as_posix(): path.read_text(encoding="utf-8") for path in paths}
    return f"FILES = {files!r}\nMODULE = {module!r}\n{REMOTE_START}"


def _run_here(module: str, task: str, time_s: float) -> tuple[str, str, str]:
    """Returns how the judge ended ("timeout" or not), its output and its log."""
    with sandbox_folder() as folder:
        folder.chmod(0o755)
        (folder / "cwd").mkdir()
        process = subprocess.Popen(
            [sys.executable, "-I", str(BOOT), str(PROJECT_DIR), module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=folder / "cwd",
            env=environment(folder / "cwd"),
            start_new_session=True,
        )
        try:
            out, log = process.communicate(task.encode("ascii"), timeout=time_s)
        except subprocess.TimeoutExpired:
            return "timeout", "", ""
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return "ended", out.decode("utf-8", errors="replace"), log.decode("utf-8", errors="replace")
