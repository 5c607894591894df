"""What a program cannot reach: files, sockets, other processes and the disk, with and without namespaces."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from trimode.core.project import PROJECT_DIR
from trimode.pipeline.scoring.sandbox import landlock, protection
from trimode.pipeline.scoring.sandbox.run import Limits, Outcome, run_program

pytestmark = pytest.mark.process

PLENTY = Limits(time_s=60.0)
NO_NAMESPACES = """
import sys
from trimode.pipeline.scoring.sandbox import seccomp
assert seccomp.restrict(one_process=False)
from trimode.pipeline.scoring.sandbox.run import Limits, run_program
outcome = run_program(sys.argv[1], limits=Limits(time_s=60.0))
print(outcome.status, outcome.stdout, outcome.stderr)
"""
needs_landlock = pytest.mark.skipif(landlock.version() == 0, reason="this kernel has no Landlock")
needs_setpriv = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None, reason="only root can become another user"
)


def run_without_namespaces(program: str) -> Outcome:
    """Runs a program where no namespace can be entered, as in most containers."""
    environment = {"PYTHONPATH": str(PROJECT_DIR / ".types"), "PATH": "/usr/bin:/bin", "HOME": "/nonexistent"}
    command = [sys.executable, "-c", NO_NAMESPACES, program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    status, _, rest = done.stdout.partition(" ")
    return Outcome(status=status, stdout=rest, stderr=rest)


def run_here(program: str) -> Outcome:
    return run_program(program, limits=PLENTY)


everywhere = pytest.mark.parametrize("run", [run_here, run_without_namespaces])
Run = Callable[[str], Outcome]


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder in which every user may read and write; pytest's own lie in one that only its user may enter."""
    with tempfile.TemporaryDirectory(prefix="trimode-open-") as name:
        Path(name).chmod(0o777)
        yield Path(name)


@needs_landlock
@everywhere
def test_files_of_the_user_are_out_of_reach(run: Run, open_folder: Path) -> None:
    (open_folder / "results").write_text("secret")
    (open_folder / "results").chmod(0o666)
    assert "PermissionError" in run(f"open({str(open_folder / 'new')!r}, 'w')").stderr
    assert "PermissionError" in run(f"open({str(open_folder / 'results')!r})").stderr
    assert "PermissionError" in run(f"open({str(Path(__file__))!r}, 'a')").stderr
    assert "PermissionError" in run(f"import os; os.unlink({str(open_folder / 'results')!r})").stderr
    assert "PermissionError" in run("open('/proc/1/environ')").stderr
    assert [path.name for path in open_folder.iterdir()] == ["results"]


@everywhere
@pytest.mark.parametrize("kind", ["SOCK_STREAM", "SOCK_DGRAM"])
def test_no_socket_connects(run: Run, kind: str, tmp_path: Path) -> None:
    for address in (str(tmp_path / "socket"), f"\0trimode-test-{os.getpid()}-{kind}"):
        with socket.socket(socket.AF_UNIX, getattr(socket, kind)) as server:
            server.bind(address)
            if kind == "SOCK_STREAM":
                server.listen()
            program = f"import socket\nsocket.socket(socket.AF_UNIX, socket.{kind}).connect({address!r})"
            assert "unreachable" in run(program).stderr
            program = f"import socket\na, b = socket.socketpair(socket.AF_UNIX, socket.{kind})\na.connect({address!r})"
            assert "Error" in run(program).stderr


@everywhere
def test_the_disk_is_limited_in_all(run: Run) -> None:
    program = "for n in range(10**4):\n    open(str(n), 'wb').write(bytes(1 << 20))\nprint('all written')"
    outcome = run(program)
    assert outcome.status == "error"
    assert "all written" not in outcome.stdout


@everywhere
def test_other_processes_are_out_of_reach(run: Run) -> None:
    program = f"""
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
for pid in ({os.getpid()}, os.getppid(), -1):
    if pid and libc.kill(pid, 0) == 0 and pid != -1:
        print("reached", pid)
if libc.ptrace(16, {os.getpid()}, 0, 0) == 0:
    print("reached by ptrace")
"""
    assert "reached" not in run(program).stdout


@everywhere
def test_what_honest_programs_need_is_there(run: Run) -> None:
    program = """
import asyncio, subprocess, tempfile, threading, zoneinfo
import numpy
with tempfile.TemporaryFile() as file:
    file.write(b"x")
thread = threading.Thread(target=print)
thread.start()
thread.join()
asyncio.run(asyncio.sleep(0))
subprocess.run(["/bin/true"], check=True)
print("all of it", numpy.ones(3).sum())
"""
    assert "all of it 3.0" in run(program).stdout


def test_the_protection_is_named() -> None:
    line = protection.describe()
    assert ("Landlock" in line.partition("NOT in force")[0]) == (landlock.version() > 0)
    assert line.startswith("programs run here, protection: ")


def test_a_part_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protection, "in_force", lambda: frozenset({"calls", "processes"}))
    given, _, missing = protection.describe().partition("NOT in force")
    assert ("seccomp" in given, "Landlock" in given, "file system" in given) == (True, False, False)
    assert ("seccomp" in missing, "Landlock" in missing, "file system" in missing) == (False, True, True)


@needs_setpriv
def test_an_ordinary_user_is_protected_too(open_folder: Path) -> None:
    python = shutil.which("python3", path="/usr/bin")
    if python is None or subprocess.run([python, "-c", "import sys; assert sys.version_info >= (3, 11)"]).returncode:
        pytest.skip("no Python of the system that any user can run")
    names = ("__init__.py", *(path.name for path in (PROJECT_DIR / "pipeline/scoring/sandbox").glob("*.py")))
    folder = open_folder / "trimode" / "pipeline" / "scoring" / "sandbox"
    folder.mkdir(parents=True)
    for name in names:
        shutil.copy(PROJECT_DIR / "pipeline/scoring/sandbox" / name, folder / name)
    for path in open_folder.rglob("*"):
        path.chmod(0o755)
    (open_folder / "cwd").mkdir(mode=0o777)
    (open_folder / "cwd").chmod(0o777)
    boot = [python, "-I", str(folder / "boot.py"), str(open_folder / "trimode")]
    user = ["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups"]
    command = [*user, *boot, "trimode.pipeline.scoring.sandbox.child", "probe"]
    done = subprocess.run(command, cwd=open_folder / "cwd", capture_output=True, text=True)
    assert ("files" in done.stdout, "calls" in done.stdout) == (landlock.version() > 0, True), done.stderr
