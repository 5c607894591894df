"""Programs under limits: each of these would hurt a process that runs it directly."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest
from trimode.pipeline.scoring.sandbox.run import Limits, run_program

pytestmark = pytest.mark.process

UNSHARE = shutil.which("unshare")
NAMESPACES = UNSHARE is not None and subprocess.run([UNSHARE, "-rn", "true"], capture_output=True).returncode == 0
SHORT = Limits(time_s=1.0)
PLENTY = Limits(time_s=60.0)
FORK_BOMB = "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass\n"
COUNTED_FORKS = """
import os, time
count = 0
try:
    while True:
        if os.fork() == 0:
            time.sleep(600)
        count += 1
except OSError:
    print(count)
"""
DAEMON = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(600)
    os._exit(0)
print("left")
"""


def processes_in(marker: str) -> list[str]:
    """Command lines of living processes that contain `marker`."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if marker in line:
                found.append(line)
    return found


def left_over(marker: str) -> list[str]:
    """What still lives after ten seconds: a killed process takes a moment to leave a crowded machine."""
    for _ in range(200):
        if not processes_in(marker):
            return []
        time.sleep(0.05)
    return processes_in(marker)


def test_output_and_exit_status_come_back() -> None:
    assert run_program("print('hello')", limits=PLENTY).stdout == "hello\n"
    assert run_program("import sys; sys.exit(3)", limits=PLENTY).status == "error"
    assert "ZeroDivisionError" in run_program("1/0", limits=PLENTY).stderr


def test_standard_input_is_the_given_text() -> None:
    assert run_program("print(input()[::-1])", "abc\n", PLENTY).stdout == "cba\n"


def test_an_endless_loop_ends_at_the_time_limit() -> None:
    assert run_program("while True: pass", limits=SHORT).status == "timeout"


def test_a_program_that_ignores_signals_ends_too() -> None:
    program = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: time.sleep(1)"
    assert run_program(program, limits=SHORT).status == "timeout"


def test_ten_gigabytes_are_refused() -> None:
    outcome = run_program("x = bytearray(10 << 30)", limits=PLENTY)
    assert (outcome.status, "MemoryError" in outcome.stderr) == ("error", True)


def test_a_flood_of_output_is_cut() -> None:
    limits = Limits(time_s=60.0, file_bytes=1 << 20, output_bytes=1000)
    outcome = run_program("while True: print('x' * 1000)", limits=limits)
    assert (outcome.status, len(outcome.stdout)) == ("error", 1000)


def test_large_files_are_refused() -> None:
    outcome = run_program("open('big', 'wb').write(bytes(64 << 20))", limits=PLENTY)
    assert outcome.status == "error"


def test_a_fork_bomb_stays_small_and_leaves_nothing() -> None:
    outcome = run_program(COUNTED_FORKS, limits=Limits(time_s=60.0, num_processes=16))
    assert (outcome.status, int(outcome.stdout) < 16) == ("completed", True)
    assert run_program(FORK_BOMB, limits=SHORT).status == "timeout"
    assert not left_over("trimode-sandbox-")


def test_a_daemon_is_killed_with_its_program() -> None:
    outcome = run_program(DAEMON, limits=PLENTY)
    assert outcome.stdout == "left\n"
    assert not left_over("trimode-sandbox-")


def test_a_killed_interpreter_is_an_error() -> None:
    assert run_program("import ctypes; ctypes.string_at(0)", limits=PLENTY).status == "error"


def test_the_callers_environment_stays_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert run_program("import os; print(os.environ.get('HF_TOKEN'))", limits=PLENTY).stdout == "None\n"


@pytest.mark.skipif(not NAMESPACES, reason="this machine permits no namespaces")
def test_there_is_no_network() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        program = f"import socket; socket.create_connection({server.getsockname()}, timeout=5)"
        assert "unreachable" in run_program(program, limits=PLENTY).stderr


def test_the_folder_is_empty_and_gone_afterwards() -> None:
    outcome = run_program("import os; print(os.getcwd(), os.listdir()); open('a', 'w').write('b')", limits=PLENTY)
    folder, listing = outcome.stdout.split(maxsplit=1)
    assert (listing.strip(), Path(folder).exists()) == ("[]", False)
