"""A command of Slurm that answers, is missing, fails, or hangs."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from trimode.core.processes import process_id
from trimode.pipeline.slurm.commands import MISSING, SILENT, ask
from trimode.tests.fakes.slurm_commands import put_on_path

pytestmark = pytest.mark.process


def reply(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str | None, limit_s: float = 60.0) -> tuple[int, str]:
    put_on_path(folder / "bin", monkeypatch, {"squeue": script})
    answer = ask(["squeue", "--me"], limit_s, text="words")
    return answer.status, answer.problem or answer.out


def test_an_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert reply(tmp_path, monkeypatch, "echo $1; cat") == (0, "--me\nwords")


def test_a_missing_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert reply(tmp_path, monkeypatch, None) == (MISSING, "squeue is not on PATH")


def test_an_error_in_its_words_without_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = "echo 'squeue: error: Invalid user' >&2; echo 'squeue: error: Invalid user' >&2; exit 3"
    assert reply(tmp_path, monkeypatch, script) == (3, "Invalid user")


def test_a_machine_of_no_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = "echo 'squeue: fatal: Could not establish a configuration source' >&2; exit 1"
    assert reply(tmp_path, monkeypatch, script) == (1, "squeue finds no cluster: there is no slurm.conf here")


def test_a_silent_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert reply(tmp_path, monkeypatch, "exit 9") == (9, "squeue ended with status 9")


def test_a_command_that_hangs_is_killed_with_its_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = "sleep 1000 & echo $! > $0.child; sleep 1000"
    assert reply(tmp_path, monkeypatch, script, limit_s=1.0) == (SILENT, "squeue gave no answer in time")
    child = (tmp_path / "bin" / "squeue.child").read_text().strip()
    deadline = time.monotonic() + 60
    while process_id(int(child)) is not None:  # a killed process may live for some milliseconds
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_variables_of_an_enclosing_job_are_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_on_path(tmp_path / "bin", monkeypatch, {"squeue": 'echo "[$SLURM_JOB_ID]"'})
    monkeypatch.setenv("SLURM_JOB_ID", "5")
    assert ask(["squeue"]).out == "[]\n"
