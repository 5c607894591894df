"""squeue's words become states; an enclosing job's variables step aside."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from trimode.core.errors import WorkerError
from trimode.pipeline.slurm.commands import outside_of_jobs
from trimode.pipeline.slurm.queue import ended_states, has_ended, job_states


def fake_squeue(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> Path:
    """A squeue that runs `script` and writes its arguments down."""
    command = folder / "squeue"
    command.write_text(f'#!/bin/sh\necho "$@" > {folder}/asked\n{script}\n')
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder / "asked"


@pytest.mark.process
def test_states_of_the_jobs_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = fake_squeue(tmp_path, monkeypatch, "printf '7_0|RUNNING\\n7_1|PENDING\\n8|COMPLETED\\n'")
    assert job_states(["7_1", "8", "9"]) == {"7_1": "PENDING", "8": "COMPLETED"}
    assert asked.read_text().split()[-1] == "--jobs=7,8,9"


@pytest.mark.process
def test_forgotten_jobs_have_no_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_squeue(tmp_path, monkeypatch, "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    assert job_states(["7"]) == {}
    assert has_ended(None)


@pytest.mark.process
def test_a_cluster_that_does_not_answer_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_squeue(tmp_path, monkeypatch, "echo 'Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(WorkerError, match="Unable to contact slurm controller"):
        job_states(["7"])


def test_nobody_is_asked_about_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = fake_squeue(tmp_path, monkeypatch, "exit 1")
    assert job_states([]) == {}
    assert not asked.exists()


def test_a_requeued_job_has_not_ended() -> None:
    assert not has_ended("PENDING") and not has_ended("COMPLETING") and has_ended("NODE_FAIL")


def test_variables_of_an_enclosing_job_step_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SBATCH_PARTITION", "night")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_CONF", "/etc/there")
    with outside_of_jobs():
        assert "SBATCH_PARTITION" not in os.environ and "SLURM_JOB_ID" not in os.environ
        assert os.environ["SLURM_CONF"] == "/etc/there"
    assert os.environ["SLURM_JOB_ID"] == "7"


@pytest.mark.process
def test_the_accounting_says_who_cancelled_a_job_and_when(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_squeue(tmp_path, monkeypatch, "true")
    rows = "7|CANCELLED by 0|2026-11-26T08:00:00\n8|FAILED|2026-11-26T08:00:00\n9|CANCELLED by 999999999|Unknown\n"
    (tmp_path / "squeue").rename(tmp_path / "sacct")
    (tmp_path / "sacct").write_text(f"#!/bin/sh\nprintf '{rows}'\n")
    assert ended_states(["7", "8", "9"]) == {
        "7": "CANCELLED by root, 2026-11-26T08:00:00", "8": "FAILED", "9": "CANCELLED by 999999999"
    }  # fmt: skip
