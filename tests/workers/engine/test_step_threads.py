"""The CPU threads of a step: by its size, and by what other programs use."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from trimode.core.devices import THREADS_VARIABLE
from trimode.tests.workers.conftest import micro_settings
from trimode.workers.engine import step_threads
from trimode.workers.engine.step_threads import QUIET_CORES, SMALL_STEP, StepThreads, busy_seconds
from trimode.workers.runtime import Runtime

STAT = """cpu  1000 0 1000 8000 0 0 0 0 0 0
cpu0 400 10 90 3000 100 0 0 7 50 0
cpu1 600 0 100 2000 0 0 0 0 0 0
cpu10 9999 0 0 0 0 0 0 0 0 0
intr 1 2 3
cpu1 not read any more
"""


class Cores:
    """A machine whose time passes when it is said: all programs' and the process's own use of its cores."""

    def __init__(self) -> None:
        self.time, self.own, self.others = 100.0, 7.0, 50.0
        self.known = True

    def all_s(self) -> float | None:
        return self.own + self.others if self.known else None

    def threads(self, most: int = 4) -> StepThreads:
        return StepThreads(most, 1000, all_s=self.all_s, own_s=lambda: self.own, now=lambda: self.time)

    def run(self, seconds: float, *, own: float, others: float) -> None:
        self.time += seconds
        self.own += own * seconds
        self.others += others * seconds


LARGE, SMALL = SMALL_STEP // 1000 + 1, SMALL_STEP // 1000


def test_a_large_step_has_all_threads_while_others_use_nothing() -> None:
    cores = Cores()
    threads = cores.threads()
    assert threads.of_step(LARGE) == 1, "nothing is known yet"
    cores.run(0.3, own=1.0, others=0.0)
    assert threads.of_step(LARGE) == 4
    assert threads.of_step(SMALL) == 1
    cores.run(0.3, own=4.0, others=QUIET_CORES - 0.01)
    assert threads.of_step(LARGE) == 4


def test_one_thread_while_another_program_uses_a_core_and_several_afterwards() -> None:
    cores = Cores()
    threads = cores.threads()
    cores.run(0.3, own=1.0, others=0.0)
    assert threads.of_step(LARGE) == 4
    cores.run(0.3, own=1.5, others=1.0)
    assert threads.of_step(LARGE) == 1
    cores.run(0.3, own=1.0, others=QUIET_CORES + 0.01)
    assert threads.of_step(LARGE) == 1
    cores.run(0.3, own=1.0, others=0.0)
    assert threads.of_step(LARGE) == 4


def test_a_look_takes_its_time() -> None:
    cores = Cores()
    threads = cores.threads()
    cores.run(0.3, own=1.0, others=0.0)
    assert threads.of_step(LARGE) == 4
    cores.run(0.01, own=1.0, others=1.0)  # the system counts in steps of this size
    assert threads.of_step(LARGE) == 4


def test_one_thread_where_the_use_of_the_cores_is_unknown() -> None:
    cores = Cores()
    cores.known = False
    threads = cores.threads()
    cores.run(0.3, own=1.0, others=0.0)
    assert threads.of_step(LARGE) == 1
    cores.known = True
    cores.run(0.3, own=1.0, others=0.0)
    assert threads.of_step(LARGE) == 1, "half of a look"
    cores.run(0.3, own=1.0, others=0.0)
    assert threads.of_step(LARGE) == 4


def test_the_use_of_some_cores_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "stat"
    path.write_text(STAT, encoding="ascii")
    monkeypatch.setattr(step_threads.os, "sysconf", lambda _: 100)
    assert busy_seconds(path, {0}) == pytest.approx(5.07)
    assert busy_seconds(path, {0, 1}) == pytest.approx(12.07)
    assert busy_seconds(path, {5}) is None
    assert busy_seconds(tmp_path / "missing", {0}) is None


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process in which torch has two threads and nobody named another number."""
    monkeypatch.delenv(THREADS_VARIABLE, raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: chosen[-1])
    chosen = [2]
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)


@pytest.mark.usefixtures("two_threads")
def test_a_process_of_its_own_chooses_for_each_step_of_a_small_model(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def of_step(_: StepThreads, tokens: int) -> int:
        asked.append(tokens)
        return 2 if tokens > 3 else 1

    monkeypatch.setattr(StepThreads, "of_step", of_step)
    runtime = Runtime(micro_settings())
    asked.clear()
    sequence = runtime.submit("a", {"prompt_ids": [5, 6, 7, 8, 9], "mode": "ar", "max_new_tokens": 3})
    used = []
    while runtime.engine.busy:
        runtime.engine.step()
        used.append(torch.get_num_threads())
    assert sequence.error is None
    assert asked[0] == 5
    assert used[0] == 2
    assert set(asked[1:]) == {1}
    assert set(used[1:]) == {1}


@pytest.mark.usefixtures("two_threads")
def test_a_number_that_was_asked_for_stays() -> None:
    assert Runtime(micro_settings(num_threads=2)).engine.runner.threads is None
