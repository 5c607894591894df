"""Runs a program that a model wrote in a process of its own, limited in time, memory, processes, files and network.

What keeps it in depends on the machine: `isolation` tries every part, and `protection` says which are in force. Set
TRIMODE_SANDBOX to run programs in NeMo-Skills' sandbox service instead.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from trimode.core.project import PROJECT_DIR
from trimode.pipeline.scoring.sandbox.folders import sandbox_folder
from trimode.pipeline.scoring.sandbox.service import execute_remotely, service_url

BOOT = Path(__file__).with_name("boot.py")
CHILD = "trimode.pipeline.scoring.sandbox.child"
PROBE = "probe"
"""Argument with which the child only says which protection is in force."""
GRACE_S = 5.0
"""Seconds that `child` gets to kill what a program started. After them it is killed itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of one program."""

    time_s: float = 10.0
    """Wall-clock seconds."""
    cpu_s: int | None = None
    """CPU seconds of each process. None: those of the wall clock and one more."""
    memory_bytes: int = 2 << 30
    """Address space of each process."""
    num_processes: int = 16
    """Processes and threads at the same time."""
    file_bytes: int = 16 << 20
    """Largest size of each file that it writes, including its output."""
    folder_bytes: int = 64 << 20
    """Most bytes of all files in its folder."""
    num_files: int = 64
    """Open files of each process."""
    output_bytes: int = 1 << 20
    """Bytes of its output that are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a program ended."""

    status: str
    """completed (exit status 0) | error | timeout."""
    stdout: str
    stderr: str


DEFAULT_LIMITS = Limits()


def run_program(program: str, stdin: str = "", limits: Limits = DEFAULT_LIMITS) -> Outcome:
    """Runs Python source to its end or its limits, here or in the service that TRIMODE_SANDBOX names.

    The program starts in an empty folder that is removed afterwards, and gets nothing of the caller's environment.
    Raises OSError if no process can be started and ConnectionError if the service does not answer.
    """
    if url := service_url():
        return Outcome(**execute_remotely(url, program, stdin, limits.time_s, limits.output_bytes))
    with sandbox_folder() as folder:
        return _run_in(folder, program, stdin, limits)


def _run_in(folder: Path, program: str, stdin: str, limits: Limits) -> Outcome:
    folder.chmod(0o755)
    (folder / "program.py").write_text(program, encoding="utf-8", errors="surrogatepass")
    (folder / "stdin").write_text(stdin, encoding="utf-8", errors="surrogatepass")
    (folder / "cwd").mkdir()
    names = ("memory_bytes", "num_processes", "file_bytes", "folder_bytes", "num_files")
    bounds = {name: getattr(limits, name) for name in names} | {"cpu_s": limits.cpu_s or math.ceil(limits.time_s) + 1}
    command = [sys.executable, "-I", str(BOOT), str(PROJECT_DIR), CHILD, json.dumps(bounds), str(folder / "program.py")]
    with (
        (folder / "stdin").open("rb") as source,
        (folder / "stdout").open("wb") as out,
        (folder / "stderr").open("wb") as err,
    ):
        process = subprocess.Popen(
            command,
            stdin=source,
            stdout=out,
            stderr=err,
            cwd=folder / "cwd",
            env=environment(folder / "cwd"),
            start_new_session=True,
        )
        timed_out = not _wait(process, limits.time_s)
    text = {name: _head(folder / name, limits.output_bytes) for name in ("stdout", "stderr")}
    status = "timeout" if timed_out else ("completed" if process.returncode == 0 else "error")
    return Outcome(status=status, **text)


def environment(cwd: Path) -> dict[str, str]:
    """Returns the program's environment. It has nothing of the caller's, so that no token reaches a model's program."""
    threads = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
    return {"PATH": os.defpath, "LANG": "C.UTF-8", "HOME": str(cwd), "TMPDIR": str(cwd), **threads}


def _wait(process: subprocess.Popen[bytes], time_s: float) -> bool:
    """True if the program ended by itself in time. When this returns, it and all that it started are gone."""
    try:
        process.wait(time_s)
        return True
    except subprocess.TimeoutExpired:
        return False
    finally:
        if process.poll() is None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _head(path: Path, num_bytes: int) -> str:
    with path.open("rb") as file:
        return file.read(num_bytes).decode("utf-8", errors="replace")
