"""What a Slurm job starts with: its call of the array's file, and a warning that comes too early for the job itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from trimode.core.errors import RUN_AGAIN, TERMINATED
from trimode.core.project import child_environment
from trimode.pipeline.launch.owner import claim, read_owner, this_process
from trimode.pipeline.launch.task import again_if_allowed
from trimode.pipeline.run_folder.submission import Call, read_call, write_calls
from trimode.tests.fakes.sweeps import HERE, jobs_of

BARE = ("cluster=bare", "model.path=./model", "suite=demo", "out_dir=out")


def calls(cwd: Path, function: str, token: str = "t") -> list[Call]:
    return [Call(spec=job, token=token, function=f"{HERE}:{function}") for job in jobs_of(cwd, *BARE)]


def test_a_call_is_read_as_it_was_written(tmp_path: Path) -> None:
    made = calls(tmp_path, "run_to_the_end")
    (tmp_path / "array").mkdir()
    write_calls(tmp_path / "array", made)
    assert [read_call(tmp_path / "array", number) for number in range(3)] == made


@pytest.mark.process
def test_a_job_of_an_array_runs_its_own_call(tmp_path: Path) -> None:
    owner = this_process()
    made = calls(tmp_path, "run_to_the_end", owner.token)
    for call in made:
        claim(Path(call.spec.run_dir), owner)
    folder = tmp_path / "array"
    folder.mkdir()
    write_calls(folder, made)
    environment = child_environment() | {
        "SLURM_ARRAY_TASK_ID": "1",
        "SLURM_ARRAY_JOB_ID": "9",
        "SLURM_JOB_ID": "10",
    }
    command = [sys.executable, "-m", "trimode.pipeline.launch.task", str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [Path(call.spec.run_dir, "COMPLETED_group0").exists() for call in made] == [False, True, False]


@pytest.mark.process
@pytest.mark.parametrize(
    ("marker", "age_s", "runs"),
    [(None, 0, True), ("COMPLETED_group0", 0, False), ("FAILED_group0", 0, False), ("COMPLETED_group0", 3600, True)],
)
def test_a_later_array_of_a_chain_does_only_what_is_left(
    tmp_path: Path, marker: str | None, age_s: float, runs: bool
) -> None:
    owner = this_process()
    [call, *_] = calls(tmp_path, "run_to_the_end", owner.token)
    claim(Path(call.spec.run_dir), owner)
    (tmp_path / "array").mkdir()
    write_calls(tmp_path / "array", [call])
    if marker is not None:
        path = Path(call.spec.run_dir, marker)
        path.touch()
        os.utime(path, (time.time() - age_s,) * 2)
    environment = child_environment() | {"SLURM_JOB_ID": "9", "TRIMODE_LINK": "1"}
    command = [sys.executable, "-m", "trimode.pipeline.launch.task", str(tmp_path / "array")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert ("there is nothing to do" in done.stdout) is not runs
    assert runs is ("9" in read_owner(Path(call.spec.run_dir)).slurm_jobs)  # type: ignore[union-attr]


@pytest.mark.parametrize(("restarts", "status"), [("3", RUN_AGAIN), ("10", "the time limit ended this run")])
def test_a_warning_before_the_job_has_begun_asks_for_another_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restarts: str, status: int | str
) -> None:
    monkeypatch.setenv("SLURM_RESTART_COUNT", restarts)
    before = {number: signal.getsignal(number) for number in (signal.SIGUSR2, signal.SIGTERM)}
    try:
        again_if_allowed(calls(tmp_path, "run_to_the_end")[0])
        with pytest.raises(SystemExit) as end:
            os.kill(os.getpid(), signal.SIGUSR2)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert end.value.code == status if isinstance(status, int) else status in str(end.value.code)


def signalled(folder: Path, signum: int, at: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs a job, and sends it a signal when its Python imports a module whose name contains `at`."""
    command = [sys.executable, "-X", "importtime", "-u", "-m", "trimode.pipeline.launch.task", str(folder)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    environment = child_environment() | {"SLURM_JOB_ID": "9"} | variables
    with subprocess.Popen(command, env=environment, text=True, **pipes) as process:  # type: ignore[call-overload]
        while at not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signum)
        out, err = process.communicate()
    return subprocess.CompletedProcess(command, process.returncode, out, err)


@pytest.mark.process
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR2])
def test_a_signal_before_the_job_has_begun_ends_its_process(tmp_path: Path, signum: int) -> None:
    """What ends so is for the batch script: scancel's SIGTERM ends the job, Slurm's warning asks for another run."""
    assert signalled(tmp_path / "nothing", signum, "import time").returncode == -signum


@pytest.mark.process
@pytest.mark.parametrize(
    ("shown", "again"), [("COMPLETING Reason=NonZeroExitCode", True), ("RUNNING Reason=None", False)]
)
def test_a_job_whose_batch_script_is_killed_at_once_asks_for_another_run(
    tmp_path: Path, shown: str, again: bool
) -> None:
    [call, *_] = calls(tmp_path, "run_to_the_end")
    for name in ("array", "tools"):
        (tmp_path / name).mkdir()
    write_calls(tmp_path / "array", [call])
    scontrol = tmp_path / "tools" / "scontrol"
    facts = f"JobId=9 JobState={shown} Requeue=1 ExitCode=0:9 X=1"
    scontrol.write_text(f'#!/bin/sh\necho "$*" >>{tmp_path}/asked\necho "{facts}"\n')
    scontrol.chmod(0o755)
    path = f"{scontrol.parent}{os.pathsep}{os.environ['PATH']}"
    done = signalled(tmp_path / "array", signal.SIGTERM, "trimode.core.errors", PATH=path)
    assert done.returncode == TERMINATED, done.stderr
    assert ("Slurm runs the job again" in done.stdout) is again
    assert (tmp_path / "asked").read_text().splitlines() == ["--oneliner show job 9", *(["requeue 9"] * again)]
    assert not Path(call.spec.run_dir, "COMPLETED_group0").exists()
