"""What a batch script does when its step ends: it runs in bash, with stand-ins for srun and scontrol."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from trimode.core.errors import RESTARTS, RUN_AGAIN, START_AGAIN
from trimode.pipeline.slurm.requeue import SRUN_FUNCTION, STEP_RESTARTS

pytestmark = pytest.mark.process

SRUN = """#!/bin/bash
echo "${%s:-none} $*" >>"$HOME/steps"
number=$(wc -l <"$HOME/steps")
status=$(sed -n "${number}p" "$HOME/statuses")
trap 'exit %s' USR2
trap 'exit %s' TERM
while [ "$status" = wait ]; do sleep 0.05; done
exit "$status"
"""
SCONTROL = """#!/bin/bash
echo "$*" >>"$HOME/requeued"
exit 1
"""


class Batch:
    """A batch script that is running."""

    def __init__(self, folder: Path, *statuses: object, on_signal: int = RUN_AGAIN) -> None:
        self.folder = folder
        (folder / "bin").mkdir()
        for name, text in (("srun", SRUN % (RESTARTS, on_signal, on_signal)), ("scontrol", SCONTROL)):
            (folder / "bin" / name).write_text(text)
            (folder / "bin" / name).chmod(0o755)
        (folder / "statuses").write_text("".join(f"{status}\n" for status in statuses))
        (folder / "steps").touch()
        script = "\n".join([*SRUN_FUNCTION, "srun --flag python -m job"])
        environment = {"HOME": str(folder), "PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "SLURM_JOB_ID": "77"}
        self.process = subprocess.Popen(["bash", "-c", script], env=environment, stderr=subprocess.PIPE, text=True)

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal once the step runs."""
        while not self.steps():
            time.sleep(0.01)
        time.sleep(0.2)  # the stand-in sets its traps
        self.process.send_signal(number)

    def end(self) -> int:
        self.said = self.process.communicate(timeout=60)[1]
        return self.process.returncode

    def steps(self) -> list[str]:
        return (self.folder / "steps").read_text().splitlines()

    @property
    def requeued(self) -> bool:
        return (self.folder / "requeued").exists()


@pytest.mark.parametrize("status", [0, 1, 2])
def test_a_step_that_ends_by_itself_ends_the_job(tmp_path: Path, status: int) -> None:
    batch = Batch(tmp_path, status)
    assert batch.end() == status
    assert batch.steps() == ["0 --flag python -m job"] and not batch.requeued


@pytest.mark.parametrize("status", [137, START_AGAIN])
def test_a_step_that_was_killed_or_lost_its_server_is_started_again(tmp_path: Path, status: int) -> None:
    batch = Batch(tmp_path, status, status, 0)
    assert batch.end() == 0
    assert [step.split()[0] for step in batch.steps()] == ["0", "1", "2"]
    assert f"the step ended with status {status} and is started again (2/3)" in batch.said
    assert not batch.requeued


def test_starts_are_bounded(tmp_path: Path) -> None:
    batch = Batch(tmp_path, *[137] * 10)
    assert batch.end() == 137
    assert len(batch.steps()) == 1 + STEP_RESTARTS


def test_a_cancelled_step_is_not_started_again(tmp_path: Path) -> None:
    batch = Batch(tmp_path, "wait", 0, on_signal=START_AGAIN)
    batch.signal(signal.SIGTERM)
    assert batch.end() == START_AGAIN
    assert len(batch.steps()) == 1 and not batch.requeued


@pytest.mark.parametrize("status", [RUN_AGAIN, 140])
def test_a_step_that_ends_after_the_warning_is_requeued(tmp_path: Path, status: int) -> None:
    batch = Batch(tmp_path, "wait", 0, on_signal=status)
    batch.signal(signal.SIGUSR2)
    assert batch.end() == RUN_AGAIN
    assert len(batch.steps()) == 1 and (tmp_path / "requeued").read_text() == "requeue 77\n"
