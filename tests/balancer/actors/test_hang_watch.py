"""Which workers count as hung."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterable

import pytest
from trimode.balancer.actors.hang_watch import wait_until_hung
from trimode.balancer.work import WorkerSlot, WorkItem
from trimode.tests.fakes.worker import PlainWorker

LIMIT_S = 0.02


class Stepping(PlainWorker):
    """Says these numbers of steps one after another, and is replaced at their end."""

    def __init__(self, steps: Iterable[int | None]) -> None:
        super().__init__()
        self.slot = WorkerSlot(0, worker=self)
        self.asked = 0
        self._steps = iter(steps)

    async def progress(self) -> int | None:
        self.asked += 1
        try:
            return next(self._steps)
        except StopIteration:
            self.slot.worker = None
            return 0


def watch(worker: Stepping, *, busy: bool) -> bool:
    async def test() -> bool:
        if busy:
            done = asyncio.get_running_loop().create_future()
            worker.slot.running["r"] = WorkItem("r", {}, 0, done)
        try:
            async with asyncio.timeout(1 if not busy else None):
                return await wait_until_hung(worker.slot, worker, LIMIT_S)
        except TimeoutError:
            return False

    return asyncio.run(test())


@pytest.mark.parametrize(
    "steps", [itertools.repeat(7), itertools.repeat(None), itertools.chain([1, 2], itertools.repeat(None))]
)
def test_requests_and_no_step_or_no_answer_is_a_hang(steps: Iterable[int | None]) -> None:
    assert watch(Stepping(steps), busy=True)


def test_a_worker_that_makes_steps_is_left_alone() -> None:
    assert not watch(Stepping(range(30)), busy=True)


def test_one_look_without_progress_is_no_hang() -> None:
    steps = [step for number in range(15) for step in (number, None, number)]
    assert not watch(Stepping(steps), busy=True)


def test_an_idle_worker_is_not_even_asked() -> None:
    worker = Stepping(itertools.repeat(7))
    assert not watch(worker, busy=False)
    assert worker.asked == 0


def test_a_time_in_which_nobody_ran_is_no_fault_of_the_worker() -> None:
    class Sleepy(Stepping):
        async def progress(self) -> int | None:
            time.sleep(3 * LIMIT_S)
            return await super().progress()

    worker = Sleepy([1, 1, 1, 1])
    assert not watch(worker, busy=True)
    assert worker.asked == 5
