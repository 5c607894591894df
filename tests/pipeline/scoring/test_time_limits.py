"""Limits of a scoring process count CPU seconds, and failures that the machine may have caused are marked."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from trimode.core.project import child_environment
from trimode.core.protocol import Row
from trimode.pipeline.benchmarks import load_benchmark
from trimode.pipeline.scoring import worker
from trimode.pipeline.scoring.patience import Patience, cpu_seconds

PROGRAM = """
import signal, sys, time
from trimode.pipeline.scoring.time_limits import count_cpu_seconds
def ring(number, frame):
    raise TimeoutError
count_cpu_seconds()
signal.signal(signal.SIGALRM, ring)
signal.alarm(1)
try:
    time.sleep(1.5)
    print("slept")
    while time.process_time() < 60:
        pass
except TimeoutError:
    print("rang")
signal.alarm(1)
signal.alarm(0)
end = time.process_time() + 1.5
while time.process_time() < end:
    pass
print("done")
"""


@pytest.mark.process
def test_an_alarm_counts_cpu_seconds_and_can_be_cancelled() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=child_environment(), check=True
    )
    assert done.stdout.split() == ["slept", "rang", "done"]


@pytest.mark.parametrize(
    ("error", "again"),
    [(KeyError("test"), False), (ValueError("x"), False), (MemoryError(), True), (OSError("no process"), True)],
)
def test_a_scorer_that_failed_for_a_reason_outside_of_the_row_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, error: Exception, again: bool
) -> None:
    def score(*_: object) -> Row:
        raise error

    monkeypatch.setattr(worker, "score_row", score)
    verdict = worker.judge(load_benchmark("demo-mcq"), {}, None)
    never = "" if again else "the scorer cannot judge this row: "
    assert verdict["scoring_error"] == f"{never}{type(error).__name__}: {error}"
    assert (worker.JUDGE_AGAIN in verdict) == again


@pytest.mark.process
def test_cpu_seconds_hold_those_of_ended_children() -> None:
    before = cpu_seconds(os.getpid())
    subprocess.run([sys.executable, "-c", "import time\nwhile time.process_time() < 0.5: pass"], check=True)
    assert cpu_seconds(os.getpid()) - before >= 0.4
    assert cpu_seconds(2**22 + 1) == 0.0


def test_alone_a_sleeping_process_is_given_up_and_a_starved_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, used = [0.0], [0.0]
    monkeypatch.setattr("trimode.pipeline.scoring.patience.time.monotonic", lambda: clock[0])
    monkeypatch.setattr("trimode.pipeline.scoring.patience.cpu_seconds", lambda _pid: used[0])
    for share, ends_at in ((0.0, 10), (0.05, 100), (0.5, 20), (1.0, 10)):
        clock[0] = used[0] = 0.0
        patience = Patience(10.0, 1, alone=True)
        while not patience.is_over():
            clock[0] += 1.0
            used[0] += share
        assert clock[0] == ends_at, share
    clock[0] = 0.0
    patience = Patience(10.0, 1, alone=False)
    assert not patience.is_over()
    clock[0] = 10.0
    assert patience.is_over()
