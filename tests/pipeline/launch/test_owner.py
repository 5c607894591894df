"""A living owner keeps others out of a run folder, a dead one does not."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from trimode.core.errors import ConfigError, WorkerError
from trimode.core.processes import ProcessId, process_id
from trimode.pipeline.launch import owner as owner_module
from trimode.pipeline.launch.owner import Owner, claim, hand_over, join, read_owner, release, this_process

GONE = ProcessId(pid=2**22 - 1, started=1)


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield process
    process.kill()
    process.wait()


def owner_of(*processes: ProcessId, slurm_jobs: tuple[str, ...] = ()) -> Owner:
    return dataclasses.replace(this_process(), processes=processes, slurm_jobs=slurm_jobs)


@pytest.mark.process
def test_a_living_process_keeps_others_out_and_is_named(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    other = process_id(sleeper.pid)
    assert other is not None
    claim(tmp_path, owner_of(other))
    with pytest.raises(ConfigError, match=f"belongs to process {sleeper.pid} on .* which runs"):
        claim(tmp_path, this_process())


def test_a_dead_process_is_taken_over(tmp_path: Path) -> None:
    claim(tmp_path, owner_of(GONE))
    me = this_process()
    claim(tmp_path, me)
    assert read_owner(tmp_path) == me


@pytest.mark.process
def test_a_pid_that_was_handed_out_again_is_dead(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    claim(tmp_path, owner_of(ProcessId(sleeper.pid, started=1)))
    claim(tmp_path, this_process())


@pytest.mark.process
def test_a_job_that_outlives_its_launcher_is_waited_for(
    tmp_path: Path, sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = process_id(sleeper.pid)
    assert job is not None
    claim(tmp_path, owner_of(GONE, job))
    monkeypatch.setattr(owner_module.time, "sleep", lambda _seconds: (sleeper.kill(), sleeper.wait()))
    claim(tmp_path, this_process())


@pytest.mark.process
def test_it_is_not_waited_for_for_ever(
    tmp_path: Path, sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = process_id(sleeper.pid)
    assert job is not None
    claim(tmp_path, owner_of(GONE, job))
    monkeypatch.setattr(owner_module, "DYING_S", 0.0)
    with pytest.raises(ConfigError, match="one owner"):
        claim(tmp_path, this_process())


def test_another_host_cannot_be_asked_so_it_lives(tmp_path: Path) -> None:
    claim(tmp_path, dataclasses.replace(owner_of(GONE), host="elsewhere"))
    with pytest.raises(ConfigError, match="on elsewhere"):
        claim(tmp_path, this_process())


def test_slurm_jobs_live_as_squeue_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    claim(tmp_path, owner_of(GONE, slurm_jobs=("7_0", "7_1")))
    monkeypatch.setattr(owner_module, "job_states", lambda _ids: {"7_0": "COMPLETED", "7_1": "PENDING"})
    with pytest.raises(ConfigError, match="belongs to Slurm job 7_0, 7_1"):
        claim(tmp_path, this_process())
    monkeypatch.setattr(owner_module, "job_states", lambda _ids: {"7_0": "COMPLETED"})
    claim(tmp_path, this_process())


def test_slurm_that_does_not_answer_keeps_the_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(_ids: object) -> dict[str, str]:
        raise WorkerError("no squeue")

    claim(tmp_path, owner_of(GONE, slurm_jobs=("7",)))
    monkeypatch.setattr(owner_module, "job_states", silent)
    with pytest.raises(ConfigError, match="Slurm job 7"):
        claim(tmp_path, this_process())


def test_of_many_at_once_one_wins(tmp_path: Path) -> None:
    def attempt(_number: int) -> bool:
        try:
            claim(tmp_path, this_process())
        except ConfigError:
            return False
        return True

    claim(tmp_path, owner_of(GONE))
    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(attempt, range(16))) == 1


def test_a_job_joins_its_own_claim_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    claimed = owner_of(GONE)
    claim(tmp_path, claimed)
    join(tmp_path, claimed.token)
    joined = read_owner(tmp_path)
    assert joined is not None
    assert [process.pid for process in joined.processes] == [GONE.pid, os.getpid()]
    with pytest.raises(WorkerError, match="taken over by process"):
        join(tmp_path, "another token")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "9")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    join(tmp_path, claimed.token)
    joined = read_owner(tmp_path)
    assert joined is not None and joined.slurm_jobs == ("9_2",)


def test_release_ends_ones_own_claim_only(tmp_path: Path) -> None:
    me = this_process()
    claim(tmp_path, me)
    release(tmp_path, "another token")
    assert read_owner(tmp_path) == me
    release(tmp_path, me.token)
    assert read_owner(tmp_path) is None


def test_a_claim_handed_over_to_slurm_stays(tmp_path: Path) -> None:
    me = this_process()
    claim(tmp_path, me)
    hand_over(tmp_path, me.token, ("7",))
    release(tmp_path, me.token)
    assert read_owner(tmp_path) == dataclasses.replace(me, slurm_jobs=("7",))


def test_a_host_that_is_gone_can_be_replaced_on_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    claim(tmp_path, dataclasses.replace(owner_of(GONE), host="gone-container"))
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "output.jsonl").touch()
    os.utime(tmp_path / "rows" / "output.jsonl", (0, 0))
    me = this_process()
    words = (
        r"process \d+ on gone-container since .*; this host is .*; the last file .* rows/output.jsonl.*; if it is gone"
    )
    with pytest.raises(ConfigError, match=words) as error:
        claim(tmp_path, me)
    assert "--take-over" in str(error.value) and "1970-01-01" in str(error.value)
    claim(tmp_path, me, take_over=True)
    assert read_owner(tmp_path) == me
    told = capsys.readouterr().err
    assert "on gone-container since" in told and "rows/output.jsonl" in told and "1970-01-01" in told


@pytest.mark.process
def test_an_owner_that_runs_is_never_replaced(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    other = process_id(sleeper.pid)
    assert other is not None
    claim(tmp_path, owner_of(other))
    with pytest.raises(ConfigError, match="which runs"):
        claim(tmp_path, this_process(), take_over=True)


def test_slurm_jobs_are_replaced_on_request_where_squeue_is_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(_ids: object) -> dict[str, str]:
        raise WorkerError("no squeue")

    claim(tmp_path, owner_of(GONE, slurm_jobs=("7",)))
    monkeypatch.setattr(owner_module, "job_states", lambda _ids: {"7": "PENDING"})
    with pytest.raises(ConfigError, match="which runs"):
        claim(tmp_path, this_process(), take_over=True)
    monkeypatch.setattr(owner_module, "job_states", silent)
    claim(tmp_path, this_process(), take_over=True)


@pytest.mark.parametrize("text", ["", "{}", "null", "[]", "{", '{"token": "t", "host": "h", "processes": [1]}'])
def test_a_damaged_owner_is_one_that_cannot_be_asked(tmp_path: Path, text: str) -> None:
    (tmp_path / "owner.json").write_text(text)
    me = this_process()
    with pytest.raises(ConfigError, match=r"owner\.json is damaged.*--take-over"):
        claim(tmp_path, me)
    release(tmp_path, me.token)
    claim(tmp_path, me, take_over=True)
    assert read_owner(tmp_path) == me
