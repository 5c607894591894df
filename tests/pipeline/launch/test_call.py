"""The pickled call: what it does before the job's function runs."""

from __future__ import annotations

import pickle
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from trimode.core.errors import WorkerError
from trimode.core.processes import ProcessId
from trimode.pipeline.launch import call
from trimode.pipeline.launch.call import DEVICES, RUN_JOB, JobCall, Launcher
from trimode.pipeline.launch.owner import Owner, claim, read_owner, this_process
from trimode.pipeline.run_folder.paths import RunPaths
from trimode.pipeline.spec import JobSpec
from trimode.tests.fakes.specs import job_spec, task_spec
from trimode.tests.fakes.sweeps import HERE

FUNCTION = f"{HERE}:run_to_the_end"
"""Prints the GPUs it sees and leaves what a finished job leaves."""


@pytest.fixture
def owned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[JobSpec, Owner]:
    """A small job, and the owner of its run folder."""
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    spec, owner = job_spec(tmp_path, (task_spec(limit=1),)), this_process()
    claim(Path(spec.run_dir), owner)
    return spec, owner


@pytest.fixture(autouse=True)
def _ctrl_c() -> Iterator[None]:
    """A local job changes what its process does on SIGINT."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


def is_completed(spec: JobSpec) -> bool:
    return RunPaths(Path(spec.run_dir)).completed(spec.index).exists()


def test_the_function_runs_the_job(owned: tuple[JobSpec, Owner]) -> None:
    spec, owner = owned
    JobCall(spec=spec, token=owner.token, function=FUNCTION)()
    assert is_completed(spec)


def test_a_slurm_job_joins_the_claim(owned: tuple[JobSpec, Owner], monkeypatch: pytest.MonkeyPatch) -> None:
    spec, owner = owned
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    JobCall(spec=spec, token=owner.token, function=FUNCTION)()
    joined = read_owner(Path(spec.run_dir))
    assert joined is not None and joined.slurm_jobs == ("17",)


def test_a_job_of_an_older_claim_does_not_start(owned: tuple[JobSpec, Owner]) -> None:
    spec, _ = owned
    with pytest.raises(WorkerError, match="was taken over by process"):
        JobCall(spec=spec, token="of an older command", function=FUNCTION)()
    assert not is_completed(spec)


@pytest.mark.parametrize(("devices", "seen"), [(None, "unset"), ("", ""), ("0,1", "0,1")])
def test_a_local_job_ends_with_its_launcher_and_sees_its_gpus(
    owned: tuple[JobSpec, Owner],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    devices: str | None,
    seen: str,
) -> None:
    spec, owner = owned
    lives_with: list[ProcessId] = []
    monkeypatch.setattr(call, "live_with", lambda owners, _grace_s: lives_with.extend(owners))
    monkeypatch.setenv(DEVICES, "7")
    JobCall(spec=spec, token=owner.token, launcher=owner.processes[0], devices=devices, function=FUNCTION)()
    assert capsys.readouterr().out == f"devices {seen}\n"
    assert lives_with[0] == owner.processes[0]
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_a_call_survives_pickling_and_runs_jobs_by_default(tmp_path: Path) -> None:
    made = JobCall(spec=job_spec(tmp_path), token="t", function=Launcher(this_process()).function)
    assert pickle.loads(pickle.dumps(made)) == made
    assert made.function == RUN_JOB
