"""The batch script around a step, run by bash with stand-ins for srun, scontrol and enroot."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from trimode.core.errors import RUN_AGAIN, START_AGAIN, TERMINATED
from trimode.pipeline.slurm import requeue
from trimode.pipeline.slurm.requeue import EARLY_WARNING, STEP_RESTARTS, srun_function
from trimode.pipeline.spec import ResourceSpec
from trimode.tests.fakes.sweeps import jobs_of

pytestmark = pytest.mark.process


def resources_of(cwd: Path, *overrides: str) -> ResourceSpec:
    return jobs_of(cwd, "cluster=bare", "mode=ar", *overrides)[0].resources


def script(tmp_path: Path, step: str, resources: ResourceSpec, before: str = "") -> subprocess.Popen[bytes]:
    """Starts a batch script whose srun runs `step` in a shell. scontrol and enroot note their calls in `calls`."""
    tools = tmp_path / "tools"
    tools.mkdir(exist_ok=True)
    for name, text in {
        "srun": step,
        "scontrol": f'[ "$1" != --oneliner ] || exec cat {tmp_path}/facts; echo "scontrol $*" >>{tmp_path}/calls; '
        f"kill -KILL $(cat {tmp_path}/pid)",
        "enroot": '[ "$1" != list ] || { echo other; echo pyxis_7.0; }; '
        f'echo "enroot $*$ENROOT_DATA_PATH" >>{tmp_path}/calls',
    }.items():
        (tools / name).write_text(f"#!/bin/bash\n{text}\n")
        (tools / name).chmod(0o755)
    text = [f"echo $$ >{tmp_path}/pid", EARLY_WARNING, before, *srun_function(resources), f"srun job {tmp_path}"]
    environment = {"PATH": f"{tools}:/usr/bin:/bin", "SLURM_JOB_ID": "7", "ENROOT_DATA_PATH": "/of/the/job"} | {
        name: value
        for name, value in os.environ.items()
        if name in ("SLURM_RESTART_COUNT", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURMD_NODENAME")
    }
    return subprocess.Popen(["bash", "-c", "\n".join(text)], env=environment, stderr=subprocess.DEVNULL)


def calls(tmp_path: Path) -> list[str]:
    path = tmp_path / "calls"
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.parametrize("status", [0, 3])
def test_the_status_of_the_step_is_that_of_the_script(tmp_path: Path, status: int) -> None:
    assert script(tmp_path, f"exit {status}", resources_of(tmp_path)).wait() == status
    assert calls(tmp_path) == []


def test_a_job_that_asks_for_it_is_requeued(tmp_path: Path) -> None:
    assert script(tmp_path, f"exit {RUN_AGAIN}", resources_of(tmp_path)).wait() == -signal.SIGKILL
    assert calls(tmp_path) == ["scontrol requeue 7"]


def test_in_a_chain_nothing_is_requeued(tmp_path: Path) -> None:
    assert script(tmp_path, f"exit {RUN_AGAIN}", resources_of(tmp_path, "cluster.requeue=chain")).wait() == RUN_AGAIN
    assert calls(tmp_path) == []


def test_one_job_of_an_array_is_requeued_and_not_the_array(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")  # the last job of an array has the array's id
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    assert script(tmp_path, f"exit {RUN_AGAIN}", resources_of(tmp_path)).wait() == -signal.SIGKILL
    assert calls(tmp_path) == ["scontrol requeue 7_2"]


SHOWN = (
    "JobId=7 JobState={state} Reason=None Requeue={requeue} Restarts=0 SubmitTime=2026-11-26T07:52:31 {preempted}X=1"
)
PREEMPTED = "PreemptTime=2026-11-26T07:52:37 "


@pytest.mark.parametrize(
    ("state", "requeue", "preempted", "again"),
    [
        ("RUNNING", 1, PREEMPTED, True),
        ("RUNNING", 0, PREEMPTED, False),
        ("COMPLETING", 1, PREEMPTED, False),  # cancelled at once, or at the end of the grace time
        ("COMPLETING", 1, "", False),  # scancel, or requeued by Slurm itself
        ("RUNNING", 1, "", False),  # a signal to the step by hand
        ("RUNNING", 1, "PreemptTime=None ", False),
    ],
)
def test_only_a_job_that_is_preempted_in_its_grace_time_asks_for_another_run(
    tmp_path: Path, state: str, requeue: int, preempted: str, again: bool
) -> None:
    (tmp_path / "facts").write_text(SHOWN.format(state=state, requeue=requeue, preempted=preempted))
    ended = script(tmp_path, f"exit {TERMINATED}", resources_of(tmp_path)).wait()
    assert (ended, calls(tmp_path)) == ((-signal.SIGKILL, ["scontrol requeue 7"]) if again else (TERMINATED, []))


def test_a_step_that_outlives_its_job_does_not_run_into_the_time_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requeue, "LAST_CALL_S", 59)
    lingers = f"touch {tmp_path}/again_7; exec sleep 30"
    began = script(tmp_path, lingers, resources_of(tmp_path, "cluster.time_limit=1"))
    assert began.wait() == -signal.SIGKILL
    assert calls(tmp_path) == ["scontrol requeue 7"]


def test_a_step_whose_job_still_works_is_left_alone_at_the_last_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requeue, "LAST_CALL_S", 60)
    (tmp_path / "again_7").touch()  # of the run before
    assert script(tmp_path, "sleep 2", resources_of(tmp_path, "cluster.time_limit=1")).wait() == 0
    assert calls(tmp_path) == []


@pytest.mark.parametrize(("most", "ended"), [(10, -signal.SIGKILL), (0, 1)])
def test_a_warning_that_kills_the_step_asks_for_another_run(tmp_path: Path, most: int, ended: int) -> None:
    resources = resources_of(tmp_path, f"cluster.max_requeues={most}")
    assert script(tmp_path, f"exit {128 + signal.SIGUSR2}", resources).wait() == ended
    assert calls(tmp_path) == ["scontrol requeue 7"] * (most > 0)


@pytest.mark.parametrize(
    ("signum", "state", "ended", "called"),
    [
        (signal.SIGUSR2, "RUNNING", -signal.SIGKILL, ["scontrol requeue 7"]),
        (signal.SIGTERM, "COMPLETING", 128 + signal.SIGTERM, []),
        (signal.SIGTERM, "RUNNING", 0, []),  # by hand
    ],
)
def test_a_signal_of_slurm_before_the_step_starts_nothing(
    tmp_path: Path, signum: int, state: str, ended: int, called: list[str]
) -> None:
    (tmp_path / "facts").write_text(SHOWN.format(state=state, requeue=1, preempted=""))
    began = script(tmp_path, f"touch {tmp_path}/started", resources_of(tmp_path), before=f"kill -{signum} $$")
    assert began.wait() == ended
    assert (calls(tmp_path), (tmp_path / "started").exists()) == (called, ended == 0)


def test_a_warning_reaches_the_step(tmp_path: Path) -> None:
    step = f"trap 'exit 9' USR2; touch {tmp_path}/ready; while :; do sleep 0.05; done"
    began = script(tmp_path, step, resources_of(tmp_path))
    while not (tmp_path / "ready").exists():
        time.sleep(0.02)
    began.send_signal(signal.SIGUSR2)
    assert began.wait() == 9


def test_a_container_that_a_cut_off_run_has_left_is_removed(tmp_path: Path) -> None:
    resources = resources_of(tmp_path, "cluster=slurm", "cluster.account=us", "cluster.container_image=/i.sqsh")
    assert script(tmp_path, "exit 0", resources).wait() == 0
    assert calls(tmp_path) == ["enroot list", "enroot remove -f pyxis_7.0"]


STEP = """echo "${TRIMODE_STEP_RESTARTS:-none}" >>%(folder)s/steps
status=$(sed -n "$(wc -l <%(folder)s/steps)p" %(folder)s/statuses)
trap 'exit %(on_signal)s' USR2 TERM
while [ "$status" = wait ]; do touch %(folder)s/ready; sleep 0.05; done
exit "$status"
"""


def steps(tmp_path: Path) -> list[str]:
    return (tmp_path / "steps").read_text().split()


def batch(tmp_path: Path, *statuses: object, on_signal: int = 0) -> subprocess.Popen[bytes]:
    """A batch script whose steps end with these statuses, one after another; `wait` waits for a signal."""
    (tmp_path / "statuses").write_text("".join(f"{status}\n" for status in statuses))
    (tmp_path / "facts").write_text(SHOWN.format(state="RUNNING", requeue=1, preempted=""))
    return script(tmp_path, STEP % {"folder": tmp_path, "on_signal": on_signal}, resources_of(tmp_path))


@pytest.mark.parametrize("status", [137, START_AGAIN, TERMINATED])
def test_a_step_that_was_killed_or_lost_its_server_is_started_again(tmp_path: Path, status: int) -> None:
    assert batch(tmp_path, status, status, 0).wait() == 0
    assert (steps(tmp_path), calls(tmp_path)) == (["0", "1", "2"], [])


@pytest.mark.parametrize(("left", "options"), [("7.0\n7.batch", "--overlap"), ("7.batch", "")])
def test_a_step_that_never_began_does_not_keep_the_devices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: str, options: str
) -> None:
    """Its srun was killed before it started anything, so Slurm waits for its end for ever."""
    monkeypatch.setattr(requeue, "LOOKS", 2)
    monkeypatch.setattr(requeue, "PAUSE_S", 0.01)
    monkeypatch.setenv("SLURMD_NODENAME", "n1")
    (tmp_path / "tools").mkdir()
    squeue = tmp_path / "tools" / "squeue"
    squeue.write_text(f"#!/bin/bash\necho \"$*\" >>{tmp_path}/asked\necho '{left}'\n")
    squeue.chmod(0o755)
    step = f'echo "$1" >>{tmp_path}/options; [ "$(wc -l <{tmp_path}/options)" -eq 2 ] || exit 137'
    assert script(tmp_path, step, resources_of(tmp_path)).wait() == 0
    first, second = (tmp_path / "options").read_text().splitlines()
    assert (first, second) == ("job", options or "job")
    asked = (tmp_path / "asked").read_text().splitlines()
    assert asked == ["--noheader --steps --jobs=7 --nodelist=n1 --format=%i"] * (2 if options else 1)


def test_starts_are_bounded(tmp_path: Path) -> None:
    assert batch(tmp_path, *[137] * 10).wait() == 137
    assert len(steps(tmp_path)) == 1 + STEP_RESTARTS


@pytest.mark.parametrize(
    ("state", "requeue", "preempted", "again"),
    [
        ("COMPLETING", 1, "", False),  # scancel
        ("RUNNING", 0, PREEMPTED, False),  # preempted, and it may not be requeued
        ("RUNNING", 1, "", True),  # a signal to the script by hand
    ],
)
def test_a_step_is_started_again_after_a_signal_that_is_not_slurms(
    tmp_path: Path, state: str, requeue: int, preempted: str, again: bool
) -> None:
    began = batch(tmp_path, "wait", 0, on_signal=TERMINATED)
    (tmp_path / "facts").write_text(SHOWN.format(state=state, requeue=requeue, preempted=preempted))
    while not (tmp_path / "ready").exists():
        time.sleep(0.02)
    began.send_signal(signal.SIGTERM)
    assert began.wait() == (0 if again else TERMINATED)
    assert (steps(tmp_path), calls(tmp_path)) == (["0", "1"] if again else ["0"], [])


@pytest.mark.parametrize("status", [RUN_AGAIN, START_AGAIN, 137])
def test_a_step_that_ends_after_the_warning_is_requeued(tmp_path: Path, status: int) -> None:
    began = batch(tmp_path, "wait", 0, on_signal=status)
    while not (tmp_path / "ready").exists():
        time.sleep(0.02)
    began.send_signal(signal.SIGUSR2)
    assert began.wait() == -signal.SIGKILL
    assert (steps(tmp_path), calls(tmp_path)) == (["0"], ["scontrol requeue 7"])


@pytest.mark.parametrize(("left_s", "waits"), [(124, True), (119, False), (7200, False)])
def test_a_warning_that_comes_too_early_is_passed_on_in_time(tmp_path: Path, left_s: int, waits: bool) -> None:
    """The job is warned two minutes before its end. More than three before it, the signal is no early warning."""
    began = batch(tmp_path, "wait", on_signal=9)
    squeue = tmp_path / "tools" / "squeue"
    squeue.write_text(f"#!/bin/bash\ndate -d @$(($(cat {tmp_path}/warned) + {left_s})) +%FT%T\n")
    squeue.chmod(0o755)
    while not (tmp_path / "ready").exists():
        time.sleep(0.02)
    (tmp_path / "warned").write_text(str(int(time.time())))
    sent = time.monotonic()
    began.send_signal(signal.SIGUSR2)
    assert began.wait() == 9
    assert not waits or time.monotonic() - sent > 2
