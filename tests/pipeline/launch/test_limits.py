"""Submissions against a fake Slurm with limits: arrays are cut, what is too much waits, ended ones leave logs alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from trimode.core.errors import WorkerError
from trimode.pipeline.launch.call import Launcher
from trimode.pipeline.launch.owner import read_owner, this_process
from trimode.pipeline.launch.view import run_dirs_below, views
from trimode.pipeline.run_folder.submission import planned, submissions
from trimode.pipeline.status.__main__ import main as status
from trimode.pipeline.sweep import guarded_sweep, run
from trimode.tests.fakes.slurm import FakeSlurm, fake_slurm
from trimode.tests.fakes.sweeps import config_of, finish

pytestmark = pytest.mark.process
CHUNKS = ("cluster=bare", "model.path=./model", "suite=demo", "out_dir=out", "mode=ar", "num_chunks=5")
ACCOUNTING = "AccountingStorageType = accounting_storage/slurmdbd\nClusterName = fake\n"


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    fake = fake_slurm(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{fake.folder}:{os.environ['PATH']}")
    (tmp_path / "model").mkdir()
    return fake


def submitted(cwd: Path, *overrides: str) -> int:
    return run(config_of(*CHUNKS, *overrides), cwd, Launcher(this_process()))


def test_no_array_is_longer_than_the_cluster_takes(tmp_path: Path, slurm: FakeSlurm) -> None:
    slurm.answer("scontrol", "ClusterName = fake\nMaxArraySize = 2\n")
    assert submitted(tmp_path) == 0
    arrays = [line for text in slurm.scripts() for line in text.splitlines() if "--array" in line]
    assert arrays == ["#SBATCH --array=0-1%2"] * 2 and len(slurm.scripts()) == 3
    [run_dir] = run_dirs_below(tmp_path / "out")
    owner = read_owner(run_dir)
    assert owner is not None and owner.slurm_jobs == ("101_0", "101_1", "102_0", "102_1", "103")


def test_jobs_beyond_the_users_number_wait_for_the_same_command(
    tmp_path: Path, slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    slurm.answer("scontrol", ACCOUNTING)
    slurm.answer("sacctmgr", "us||4||\n")
    slurm.states("7|RUNNING|\n")
    assert submitted(tmp_path) == 1
    assert "2 jobs are not submitted: Slurm takes no more" in capsys.readouterr().err
    assert "#SBATCH --array=0-2%3" in slurm.scripts()[0]
    slurm.states("101_2|RUNNING|\n")
    for number in (0, 1):
        finish_chunk(tmp_path, number)
    assert submitted(tmp_path) == 0
    assert len(slurm.scripts()) == 2


def finish_chunk(cwd: Path, number: int) -> None:
    [run_dir] = run_dirs_below(cwd / "out")
    finish(views([run_dir])[number].spec)


def test_a_refusal_names_what_went_before_and_shows_the_script(
    tmp_path: Path, slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    slurm.answer("scontrol", "ClusterName = fake\nMaxArraySize = 3\n")
    slurm.refuse_after(1, "sbatch: error: QOSMaxSubmitJobPerUserLimit\n")
    assert guarded_sweep(lambda: submitted(tmp_path)) == 1
    told = capsys.readouterr().err
    assert "QOSMaxSubmitJobPerUserLimit" in told and "already submitted: 101_0 (ar-chunk0)" in told
    assert "#SBATCH --array=0-1%2" in told, "the script that was refused"
    assert "the same command submits the rest" in told
    slurm.refuse_after(None)
    assert submitted(tmp_path) == 0
    assert "#SBATCH --array=0-1%2" in slurm.scripts()[1]
    assert len(slurm.scripts()) == 2


def test_ended_submissions_leave_their_logs_and_a_plan(
    tmp_path: Path, slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    submitted(tmp_path)
    [folder] = [item.folder for item in submissions(tmp_path / "out")]
    log = folder / "101_0_0_log.out"
    log.write_text("what it printed")
    assert status([str(tmp_path / "out")]) == 0
    assert len(list(folder.iterdir())) > 1, "its jobs wait"
    slurm.states("")
    assert status([str(tmp_path / "out")]) == 0
    assert list(folder.iterdir()) == [log]
    [run_dir] = run_dirs_below(tmp_path / "out")
    plan = planned(run_dir)["jobs"]
    assert isinstance(plan, list) and [job["slurm_job_id"] for job in plan] == [f"101_{number}" for number in range(5)]
    assert "5 planned" in capsys.readouterr().out


def test_submissions_to_another_cluster_are_left_alone(tmp_path: Path, slurm: FakeSlurm) -> None:
    submitted(tmp_path)
    slurm.answer("scontrol", "ClusterName = other\n")
    slurm.states("")
    assert status([str(tmp_path / "out")]) == 0
    assert len(submissions(tmp_path / "out")) == 1


def test_what_cannot_be_asked_is_not_removed(tmp_path: Path, slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch) -> None:
    submitted(tmp_path)

    def fails(_ids: object) -> dict[str, str]:
        raise WorkerError("squeue cannot be asked")

    monkeypatch.setattr("trimode.pipeline.launch.living.job_states", fails)
    slurm.states("")
    assert status([str(tmp_path / "out")]) == 0
    assert len(submissions(tmp_path / "out")) == 1
