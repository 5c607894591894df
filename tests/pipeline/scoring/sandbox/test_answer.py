"""Time limits of an answer's process: CPU time and sleep count, waiting for a processor does not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from trimode.core.project import PROJECT_DIR
from trimode.pipeline.scoring.sandbox.harness import JudgeLimits, NoVerdictError, WallClockError, bundle, run_judge
from trimode.pipeline.scoring.sandbox.judge import message
from trimode.pipeline.scoring.sandbox.run import BOOT

pytestmark = pytest.mark.process

JUDGE = "trimode.pipeline.scoring.code.function_tests_judge"
TESTS = {"prompt": "", "entry_point": "double", "test": "def check(candidate):\n    assert candidate(2) == 4\n"}
PATIENT = JudgeLimits(wall_s=300.0, memory_bytes=1 << 30)
USES = """
import time
def double(x):
    {}
    return 2 * x
"""
TWELVE_THREADS = """
import threading, time
def spin():
    while time.thread_time() < 0.3: pass
def double(x):
    threads = [threading.Thread(target=spin) for _ in range(12)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    return 2 * x
"""
STARVED = """
from trimode.pipeline.scoring.sandbox import answer
answer.Answer._states = lambda self: {"R"}
from trimode.pipeline.scoring.code import function_tests_judge
function_tests_judge.main()
"""


def verdict(code: str, cpu_s: float, limits: JudgeLimits = PATIENT) -> dict[str, Any]:
    return run_judge(JUDGE, {"code": code, "cpu_s": cpu_s}, TESTS, limits)


def test_a_busy_answer_is_wrong_beyond_its_cpu_limit() -> None:
    assert verdict(USES.format("while time.process_time() < 3.0: pass"), 0.5) == {"passed": False}


def test_an_answer_without_end_is_wrong() -> None:
    assert verdict(USES.format("while True: pass"), 0.5) == {"passed": False}


def test_threads_count_together() -> None:
    """None of them alone is beyond the limit, and the main thread only waits."""
    assert verdict(TWELVE_THREADS, 0.5) == {"passed": False}


def test_sleep_counts_as_the_answers_own_time() -> None:
    assert verdict(USES.format("time.sleep(100)"), 0.5) == {"passed": False}


def test_an_answer_that_catches_its_limit_is_wrong() -> None:
    code = USES.format("try:\n        while True: pass\n    except BaseException: pass")
    assert verdict(code, 0.5) == {"passed": False}


def test_an_answer_within_its_limit_passes_on_a_busy_machine() -> None:
    """It gets a small share of a processor, since the kernel shares them out by sessions."""
    spin = [sys.executable, "-c", "while True: pass"]
    busy = [subprocess.Popen(spin, start_new_session=True) for _ in range(8 * (os.cpu_count() or 1))]
    try:
        assert verdict(USES.format("while time.process_time() < 1.0: pass"), 2.0) == {"passed": True}
    finally:
        for process in busy:
            process.kill()
            process.wait()


def test_too_little_cpu_in_the_wall_clocks_limit_is_no_verdict() -> None:
    """The answer stops itself, and its state is played as one that waits for a processor."""
    limits = {"wall_s": 2.0, "memory_bytes": 1 << 30, "file_bytes": 1, "folder_bytes": 1 << 20, "num_files": 64}
    task = message({"code": USES.format("time.sleep(100)"), "cpu_s": 0.2, "limits": limits}) + message(TESTS)
    environment = {"PYTHONPATH": str(PROJECT_DIR / ".types"), "PATH": "/usr/bin:/bin", "HOME": "/nonexistent"}
    done = subprocess.run(
        [sys.executable, "-c", STARVED],
        input=task,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert "starved" in json.loads(done.stdout), done.stderr


def test_a_judge_travels_to_a_service_as_one_program(tmp_path: Path) -> None:
    limits = {"wall_s": 60.0, "memory_bytes": 1 << 30, "file_bytes": 1, "folder_bytes": 1 << 20, "num_files": 64}
    task = message({"code": USES.format(""), "cpu_s": 5.0, "limits": limits}) + message(TESTS)
    (tmp_path / "program.py").write_text(bundle(JUDGE))
    done = subprocess.run(
        [sys.executable, "-I", "program.py"], input=task, cwd=tmp_path, capture_output=True, text=True
    )
    assert json.loads(done.stdout) == {"passed": True}, done.stderr


def test_the_wall_clock_is_an_error_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    boot = tmp_path / "boot.py"
    boot.write_text('print(\'{"starved": "too little"}\')')
    monkeypatch.setattr("trimode.pipeline.scoring.sandbox.harness.BOOT", boot)
    with pytest.raises(WallClockError, match="too little"):
        verdict("", 1.0)


def test_a_judge_that_dies_gives_no_verdict(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    boot = tmp_path / "boot.py"
    boot.write_text("raise SystemExit('last words')")
    monkeypatch.setattr("trimode.pipeline.scoring.sandbox.harness.BOOT", boot)
    with pytest.raises(NoVerdictError, match="last words"):
        verdict("", 1.0)
    assert BOOT.is_file()
