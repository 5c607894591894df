"""The status command: text, JSON, logs, cancel, and watching until nothing lives."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
from trimode.core.files import write_text_atomic
from trimode.pipeline.launch.living import write_plan
from trimode.pipeline.launch.view import JobView, Stage, planned_jobs
from trimode.pipeline.run_folder.paths import RunPaths
from trimode.pipeline.run_folder.submission import FOLDER, Call, Submission, accepted, write_calls
from trimode.pipeline.spec import JobSpec
from trimode.pipeline.status.__main__ import main, watch
from trimode.tests.fakes.sweeps import finish, jobs_of


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three jobs: one is completed, one failed, one runs. squeue and scancel are scripts."""
    (tmp_path / "model").mkdir()
    jobs = jobs_of(tmp_path, "cluster=bare", "out_dir=out", "suite=demo", "model.path=./model")
    for number, job in enumerate(jobs):
        Path(job.run_dir).mkdir(parents=True)
        write_plan(Path(job.run_dir), [], [(job, f"5_{number}")], f"bash eval.sh --mode {job.name}")
    finish(jobs[0])
    write_text_atomic(RunPaths(Path(jobs[1].run_dir)).failed(0), "now\nCause: first\nsecond\n\n--- end of x\n")
    RunPaths(Path(jobs[2].run_dir)).pipeline_log(0).write_text("hello\n")
    folder = tmp_path / "bin"
    folder.mkdir()
    scripts = {
        "squeue": "printf '5_0|COMPLETED|None\\n5_1|FAILED|NonZeroExitCode\\n5_2|RUNNING|None\\n'",
        "scancel": f'echo "$@" > {folder}/cancelled',
        "sacct": "exit 1",
    }
    for name, text in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return tmp_path / "out"


@pytest.mark.process
def test_text_and_json(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(out)]) == 0
    text = capsys.readouterr().out
    assert "ar           5_0           completed" in text
    assert "      first\n      second\n      log: " in text
    assert text.splitlines()[-2:] == [
        "what is left goes on with: bash eval.sh --mode dlm", "1 running, 1 completed, 1 failed"
    ]  # fmt: skip
    assert main([str(out), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["slurm_job_id"], row["state"]) for row in rows] == [
        ("5_0", "completed"), ("5_1", "failed"), ("5_2", "running")
    ]  # fmt: skip
    assert main(["--json", str(out)]) == 0
    assert json.loads(capsys.readouterr().out) == rows
    assert (rows[1]["detail"], rows[1]["command"]) == ("first\nsecond", "bash eval.sh --mode dlm")


@pytest.mark.process
@pytest.mark.parametrize("given", ["out", "link", "./out/../out"])
def test_every_path_of_the_output_folder_shows_what_was_just_submitted(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    jobs = [job for path in sorted(out.glob("*/*/*")) for job, _, _ in planned_jobs(path)]
    folder = out / FOLDER / "0123456789ab"
    folder.mkdir(parents=True)
    write_calls(folder, [Call(spec=job, token="t", function="a:b") for job in jobs])
    accepted(Submission(folder, "5", len(jobs), "test", (), "bash eval.sh FLAGS"))
    for path in out.rglob("plan.json"):  # it is written once the array has ended
        path.unlink()
        write_text_atomic(path.with_name("owner.json"), "{}")
    (tmp_path / "link").symlink_to(out)
    monkeypatch.chdir(tmp_path)
    assert main([given]) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "what is left goes on with: bash eval.sh FLAGS", "1 running, 1 completed, 1 failed"
    ]  # fmt: skip


@pytest.mark.process
def test_logs_and_cancel(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["logs", str(out)]) == 0
    assert "hello" in capsys.readouterr().out
    assert main(["cancel", str(out)]) == 0
    assert "cancelled: 5_2;" in capsys.readouterr().out
    assert (out.parent / "bin" / "cancelled").read_text() == "5_2\n"


def test_a_folder_without_runs_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert f"no run folder in {tmp_path}" in capsys.readouterr().err


def test_watching_shows_changes_and_ends_with_the_last_job(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [job] = jobs_of(tmp_path, "cluster=bare", "out_dir=out", "mode=ar", "benchmarks=gsm8k")
    stages = [Stage.PENDING, Stage.PENDING, Stage.PENDING, Stage.RUNNING, Stage.COMPLETED]
    looks = iter(stages)
    pauses: list[float] = []
    watch(lambda: [seen(job, next(looks))], pauses.append)
    printed = capsys.readouterr().out
    assert [printed.count(f"  {word}  ") for word in ("pending", "running", "completed")] == [1, 1, 1]
    assert pauses == [2.0, 3.0, 4.5, 2.0]


def seen(job: JobSpec, stage: Stage) -> JobView:
    return JobView(spec=job, job_id="1", stage=stage, detail="", progress={}, log=Path("log"))


@pytest.mark.process
def test_a_chain_is_cancelled_whole_and_shown_whole(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [job] = [spec for path in out.glob("*/*/*") for spec, ids, _ in planned_jobs(path) if ids == ("5_2",)]
    write_plan(Path(job.run_dir), [], [(job, "5_2"), (job, "6_2")])
    assert main(["cancel", str(out)]) == 0
    assert "cancelled: 5_2, 6_2;" in capsys.readouterr().out
    assert main([str(out), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["follow_ups"] for row in rows if row["slurm_job_id"] == "5_2"] == [["6_2"]]


@pytest.mark.process
def test_a_cancel_that_slurm_refuses_is_an_error(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (out.parent / "bin" / "scancel").write_text("#!/bin/sh\necho no permission >&2; exit 1\n")
    assert main(["cancel", str(out)]) == 1
    assert "scancel failed: no permission" in capsys.readouterr().err


@pytest.mark.process
def test_a_log_that_is_not_there_yet_says_so(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["logs", str(out)]) == 0
    assert "(nothing yet)" in capsys.readouterr().out


def test_pauses_grow_up_to_a_limit(tmp_path: Path) -> None:
    [job] = jobs_of(tmp_path, "cluster=bare", "out_dir=out", "mode=ar", "benchmarks=gsm8k")
    looks = iter([Stage.RUNNING] * 10 + [Stage.COMPLETED])
    pauses: list[float] = []
    watch(lambda: [seen(job, next(looks))], pauses.append)
    assert pauses[-1] == 30.0
