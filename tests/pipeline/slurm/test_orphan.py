"""A step whose batch script was killed asks Slurm for another run; one that was cancelled does not."""

from __future__ import annotations

from pathlib import Path

import pytest
from trimode.pipeline.slurm.orphan import batch_script_was_killed, requeue_if_orphaned
from trimode.tests.fakes.slurm_commands import put_on_path

SHOWN = "JobId=7 JobState={state} Reason={reason} Dependency=(null) Requeue={requeue} Restarts=0 ExitCode={code} X=1"
"""What Slurm 22.05 shows of a job whose steps are being ended."""


def scontrol(folder: Path, shown: str) -> str:
    return f"""case "$*" in
  *requeue*) echo "$*" >>{folder}/requeued ;;
  *) echo '{shown}' ;;
esac"""


@pytest.mark.process
@pytest.mark.parametrize(
    ("state", "reason", "requeue", "code", "again"),
    [
        ("COMPLETING", "JobLaunchFailure", 1, "0:9", True),
        ("COMPLETING", "RaisedSignal:9(Killed)", 1, "0:9", True),
        ("COMPLETING", "JobLaunchFailure", 0, "0:9", False),
        ("COMPLETING", "None", 1, "0:0", False),  # scancel
        ("COMPLETING", "None", 1, "0:9", False),
        ("COMPLETING", "TimeLimit", 1, "0:15", False),
        ("RUNNING", "None", 1, "0:0", False),  # a signal to the step alone
    ],
)
def test_only_a_killed_batch_script_makes_an_orphan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str, reason: str, requeue: int, code: str, again: bool
) -> None:
    shown = SHOWN.format(state=state, reason=reason, requeue=requeue, code=code)
    put_on_path(tmp_path / "bin", monkeypatch, {"scontrol": scontrol(tmp_path, shown)})
    assert requeue_if_orphaned("7_2", 10) is again
    assert (tmp_path / "requeued").exists() == again
    assert not again or (tmp_path / "requeued").read_text() == "requeue 7_2\n"


@pytest.mark.process
def test_requeues_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = SHOWN.format(state="COMPLETING", reason="JobLaunchFailure", requeue=1, code="0:9")
    put_on_path(tmp_path / "bin", monkeypatch, {"scontrol": scontrol(tmp_path, shown)})
    monkeypatch.setenv("SLURM_RESTART_COUNT", "3")
    assert not requeue_if_orphaned("7", 3)
    assert requeue_if_orphaned("7", 4)
    assert (tmp_path / "requeued").read_text() == "requeue 7\n"


@pytest.mark.process
def test_without_scontrol_nothing_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_on_path(tmp_path / "bin", monkeypatch, {"scontrol": None})
    assert not requeue_if_orphaned("7", 10)


@pytest.mark.process
@pytest.mark.parametrize(
    ("state", "code", "killed"),
    [("FAILED", "0:9", True), ("FAILED", "0:15", True), ("FAILED", "1:0", False), ("CANCELLED", "0:15", False)],
)
def test_a_failed_job_tells_whether_a_signal_ended_its_batch_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str, code: str, killed: bool
) -> None:
    shown = SHOWN.format(state=state, reason="JobLaunchFailure", requeue=1, code=code)
    put_on_path(tmp_path / "bin", monkeypatch, {"scontrol": scontrol(tmp_path, shown)})
    assert batch_script_was_killed("7_2") is killed


@pytest.mark.process
def test_a_job_that_slurm_has_forgotten_tells_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_on_path(tmp_path / "bin", monkeypatch, {"scontrol": "echo 'Invalid job id specified' >&2; exit 1"})
    assert not batch_script_was_killed("7_2")
