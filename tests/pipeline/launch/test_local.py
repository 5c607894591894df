"""Jobs on this machine: one after another, and gone with whoever started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from trimode.core.errors import Stopped
from trimode.core.processes import ProcessId, process_id
from trimode.core.project import child_environment
from trimode.pipeline import sweep as run_module
from trimode.pipeline.launch import local
from trimode.pipeline.launch.call import Launcher, visible_devices
from trimode.pipeline.launch.owner import read_owner, this_process
from trimode.pipeline.run_folder.paths import RunPaths
from trimode.pipeline.spec import Device, JobSpec
from trimode.pipeline.sweep import guarded_sweep, run
from trimode.tests.fakes.sweeps import HERE, config_of, local_jobs

pytestmark = pytest.mark.process

SWEEP = ("model.path=./model", "cluster=local", "suite=demo", "out_dir=out")
COMMAND = """
import sys
from pathlib import Path
from trimode.pipeline.launch import local
from trimode.pipeline.launch.call import Launcher
from trimode.pipeline.launch.owner import this_process
from trimode.pipeline.sweep import guarded_sweep, run
from trimode.tests.fakes.sweeps import HERE, config_of
launcher = Launcher(this_process(), f"{HERE}:{sys.argv[1]}")
sys.exit(guarded_sweep(lambda: run(config_of(*sys.argv[2:]), Path.cwd(), launcher)))
"""


@pytest.fixture(autouse=True)
def _no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table of a sweep that has ended has tests of its own."""
    monkeypatch.setattr(run_module, "print_report", lambda _jobs, _out_dir: None)


def sweep(cwd: Path, function: str, *overrides: str) -> int:
    (cwd / "model").mkdir(exist_ok=True)
    return run(config_of(*SWEEP, *overrides), cwd, Launcher(this_process(), f"{HERE}:{function}"))


@contextmanager
def command(cwd: Path, function: str, *overrides: str) -> Iterator[subprocess.Popen[str]]:
    """The same in a process of its own, which is gone afterwards."""
    (cwd / "model").mkdir(exist_ok=True)
    words = [sys.executable, "-c", COMMAND, function, *SWEEP, *overrides]
    environment = child_environment()
    process = subprocess.Popen(
        words, cwd=cwd, env=environment, text=True, stderr=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def hanging_job(cwd: Path, process: subprocess.Popen[str]) -> ProcessId:
    """The job's process, once it hangs."""
    while not (found := list(cwd.glob("out/*/hf_base/*/hanging"))) or not found[0].read_text():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    job = process_id(int(found[0].read_text()))
    assert job is not None
    return job


def test_every_job_runs_and_the_folders_are_given_back(tmp_path: Path) -> None:
    assert sweep(tmp_path, "run_to_the_end", "mode=[ar,dlm]") == 0
    for job in local_jobs(tmp_path, "mode=[ar,dlm]"):
        assert RunPaths(Path(job.run_dir)).completed(0).exists()
        assert read_owner(Path(job.run_dir)) is None


def test_one_that_fails_does_not_keep_the_next_from_running(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep(tmp_path, "fail_in_ar", "mode=[ar,dlm]") == 1
    told = capsys.readouterr().err
    assert "ar failed: Cause: the dog ate it\n  record: " in told
    ar, dlm, _ = local_jobs(tmp_path)
    assert not RunPaths(Path(ar.run_dir)).completed(0).exists()
    assert RunPaths(Path(dlm.run_dir)).completed(0).exists()


def test_one_that_dies_without_a_word_is_a_failed_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep(tmp_path, "vanish", "mode=ar") == 1
    told = capsys.readouterr().err
    assert "ar failed: it left no record; " in told and "last words of ar" in told


def test_a_job_sees_the_gpus_it_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-aa,GPU-bb,GPU-cc")
    assert sweep(tmp_path, "run_to_the_end", "mode=ar", "cluster.gpus=2") == 0
    [log] = tmp_path.glob("out/*/hf_base/*/.submitit/group0/*_log.out")
    assert "devices GPU-aa,GPU-bb\n" in log.read_text()


@pytest.mark.parametrize(
    ("current", "num_gpus", "device", "expected"),
    [
        (None, 0, Device.auto, None),
        ("3,4", 0, Device.auto, "3,4"),
        (None, 2, Device.auto, "0,1"),
        ("3,4,5", 2, Device.cuda, "3,4"),
        ("3", 2, Device.cuda, "3"),
        (None, 0, Device.cpu, ""),
        ("3", 0, Device.cpu, ""),
    ],
)
def test_visible_devices(current: str | None, num_gpus: int, device: Device, expected: str | None) -> None:
    assert visible_devices(current, num_gpus, device) == expected


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_ending_the_command_ends_the_job_and_the_command_goes_on_later(tmp_path: Path, signum: int) -> None:
    with command(tmp_path, "hang", "mode=ar") as process:
        job = hanging_job(tmp_path, process)
        process.send_signal(signum)
        status = process.wait(120)
        assert status == (1 if signum != signal.SIGKILL else -signum)
    assert sweep(tmp_path, "run_to_the_end", "mode=ar") == 0
    assert not job.alive()


def test_a_job_that_is_killed_is_a_failed_one(tmp_path: Path) -> None:
    with command(tmp_path, "hang", "mode=ar") as process:
        job = hanging_job(tmp_path, process)
        os.kill(job.pid, signal.SIGKILL)
        _, told = process.communicate(timeout=120)
        assert process.returncode == 1
        assert "ar failed: it left no record" in told


def test_a_running_command_keeps_a_second_one_out(tmp_path: Path) -> None:
    with command(tmp_path, "hang", "mode=ar") as first:
        hanging_job(tmp_path, first)
        with command(tmp_path, "run_to_the_end", "mode=ar") as second:
            _, told = second.communicate(timeout=120)
        assert second.returncode == 2
        assert f"belongs to process {first.pid}," in told


class DeafProcess:
    """A job whose submitit swallows the first signals."""

    def __init__(self, swallowed: int) -> None:
        self.swallowed = swallowed
        self.calls: list[str] = []

    def poll(self) -> int | None:
        return None if self.calls.count("terminate") <= self.swallowed and "kill" not in self.calls else 0

    def terminate(self) -> None:
        self.calls.append("terminate")

    def kill(self) -> None:
        self.calls.append("kill")

    def wait(self, timeout: float | None = None) -> int:
        if self.poll() is None:
            raise subprocess.TimeoutExpired("job", timeout or 0.0)
        return 0


class StartedJob:
    """What `start` returns, as far as `end` reads it."""

    def __init__(self, process: DeafProcess) -> None:
        self._process = process


def test_a_job_is_asked_to_end_until_it_hears() -> None:
    process = DeafProcess(swallowed=3)
    local.end(StartedJob(process))  # type: ignore[arg-type]
    assert process.calls == ["terminate"] * 4 + ["kill"]


def test_a_job_that_never_hears_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "GRACE_S", 0.05)
    process = DeafProcess(swallowed=10**9)
    local.end(StartedJob(process))  # type: ignore[arg-type]
    assert process.calls[0] == "terminate" and process.calls[-1] == "kill"


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_while_a_job_starts_ends_that_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], signum: signal.Signals
) -> None:
    started = StartedJob(DeafProcess(swallowed=0))
    ended: list[object] = []

    def start(_job: JobSpec, _launcher: Launcher) -> StartedJob:
        os.kill(os.getpid(), signum)
        time.sleep(0)  # a place where Python handles it
        return started

    monkeypatch.setattr(local, "start", start)
    monkeypatch.setattr(local, "end", ended.append)
    assert guarded_sweep(lambda: sweep(tmp_path, "run_to_the_end", "mode=ar")) == 1
    assert ended == [started]
    assert f"stopped by {signum.name}; the same command goes on" in capsys.readouterr().err


def test_ctrl_c_while_the_process_is_made_is_heard_afterwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def submit(_executor: object, _command: str) -> str:
        assert signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())  # the job's process inherits this
        os.kill(os.getpid(), signal.SIGINT)
        return "made"

    monkeypatch.setattr(local.LocalExecutor, "_submit_command", submit)
    with pytest.raises(Stopped, match="SIGINT"), local._signals_raise() as ending, ending.held():
        assert local._Executor(tmp_path)._submit_command("job") == "made"
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
