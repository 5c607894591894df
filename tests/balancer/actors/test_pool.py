"""The pool over fake actors: who is in service, who is replaced after a death, and when it gives up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from pathlib import Path

import pytest
from trimode.balancer.actors.pool import WorkerPool
from trimode.balancer.placement import Placement
from trimode.balancer.settings import BalancerSettings
from trimode.balancer.work import Reply
from trimode.core.errors import ConfigError, TrimodeError, WorkerError
from trimode.core.protocol import Generation, WorkerSettings
from trimode.tests.fakes.actors import FakeActors, run

WORKER = WorkerSettings(model="m", max_num_seqs=4)


async def until(condition: Callable[[], bool]) -> None:
    """Runs the event loop until `condition()`; fails when nothing is left to happen."""
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it did not happen")


class Bench:
    """A pool of two workers whose fatal causes are noted."""

    def __init__(
        self,
        refusals: dict[int, TrimodeError] | None = None,
        hang_timeout_s: float = 600.0,
        hangs: Collection[int] = (),
        start_timeout_s: float = 600.0,
    ) -> None:
        self.actors = FakeActors(refusals, hangs)
        self.fatal: list[str] = []
        settings = BalancerSettings(
            worker=WORKER,
            log_prefix="group3_",
            max_worker_deaths=3 if hangs else 2,
            hang_timeout_s=hang_timeout_s,
            start_timeout_s=0.5 if hangs else start_timeout_s,
        )
        placement, door = Placement(2, 0, WORKER), self.actors.door
        self.pool = WorkerPool(settings, placement, Path("logs"), self.fatal.append, door, self.actors)

    def submit(self, name: str) -> asyncio.Task[Reply]:
        return asyncio.ensure_future(self.pool.router.submit(name, {"request_id": name}, 0))

    def hold(self, name: str) -> asyncio.Future[Generation]:
        """Makes every living actor wait with its answer to this request."""
        future: asyncio.Future[Generation] = asyncio.get_running_loop().create_future()
        for actor in self.actors.started:
            actor.answers[name] = future
        return future


def test_all_workers_are_in_service_after_the_start() -> None:
    async def test() -> None:
        bench = Bench()
        assert bench.pool.infos == []
        await bench.pool.start()
        assert [info.model for info in bench.pool.infos] == ["m", "m"]
        assert bench.pool.router.num_ready == 2
        assert bench.actors.log_files == [Path("logs/group3_worker_0.log"), Path("logs/group3_worker_1.log")]
        assert (await bench.submit("a")).generation.request_id == "a"

    run(test())


def test_one_worker_that_cannot_start_fails_the_start() -> None:
    async def test() -> None:
        bench = Bench({2: ConfigError("no weights")})
        with pytest.raises(WorkerError, match="worker 1 cannot start: no weights"):
            await bench.pool.start()

    run(test())


def test_a_dead_worker_is_replaced_and_its_request_answered() -> None:
    async def test() -> None:
        bench = Bench()
        await bench.pool.start()
        bench.hold("a")
        task = bench.submit("a")
        await until(lambda: bench.pool.router.num_running == 1)
        del bench.actors.started[1].answers["a"]
        bench.actors.started[0].die()
        assert (await task).generation.request_id == "a"
        await until(lambda: bench.pool.restarts == 1)
        assert [worker.pid for worker in bench.pool.workers if worker is not None] == [3, 2]
        assert bench.fatal == []

    run(test())


def test_a_worker_that_lives_and_does_nothing_is_replaced_and_its_request_answered() -> None:
    async def test() -> None:
        bench = Bench(hang_timeout_s=0.05)
        await bench.pool.start()
        bench.hold("a")
        task = bench.submit("a")
        await until(lambda: bench.pool.router.num_running == 1)
        del bench.actors.started[1].answers["a"]
        assert (await task).generation.request_id == "a"
        await until(lambda: bench.pool.restarts == 1)
        assert bench.actors.started[0].died.done()
        assert (bench.pool.slots[0].deaths, bench.pool.slots[0].deaths_in_a_row) == (1, 0)
        assert not bench.actors.started[1].died.done()

    run(test())


def test_an_idle_worker_that_dies_is_noticed() -> None:
    async def test() -> None:
        bench = Bench()
        await bench.pool.start()
        await until(lambda: bench.pool.router.num_ready == 2)
        await asyncio.sleep(0)
        bench.actors.started[1].die()
        await until(lambda: bench.pool.restarts == 1)
        assert bench.pool.slots[1].deaths == 1

    run(test())


def test_a_worker_that_cannot_come_back_ends_the_pool_with_the_cause() -> None:
    async def test() -> None:
        bench = Bench({3: ConfigError("the disk is gone")})
        await bench.pool.start()
        bench.actors.started[0].die()
        await until(lambda: bool(bench.fatal))
        assert bench.fatal == ["worker 0 cannot start: the disk is gone: 2 deaths in a row"]
        assert bench.actors.started[2].died.done()

    run(test())


def test_a_finished_request_between_two_deaths_keeps_the_pool_alive() -> None:
    async def test() -> None:
        bench = Bench()
        await bench.pool.start()
        for restarts in (1, 2, 3):
            await bench.submit("a")
            bench.actors.started[-1 if restarts > 1 else 0].die()
            await until(lambda restarts=restarts: bench.pool.restarts == restarts)  # type: ignore[misc]
        assert bench.pool.slots[0].deaths == 3
        assert bench.fatal == []

    run(test())


def test_stats_of_a_worker_that_does_not_answer_are_none() -> None:
    async def test() -> None:
        bench = Bench()
        await bench.pool.start()
        bench.actors.started[1].die()
        stats = await bench.pool.stats()
        first, second = stats["workers"]
        assert (first["pid"], first["engine"]["steps"]) == (1, 1)
        assert second["engine"] is None
        assert stats["balancer"]["finished"] == 0

    run(test())


async def until_in_time(condition: Callable[[], bool]) -> None:
    """As `until`, where something takes seconds."""
    while not condition():
        await asyncio.sleep(0.01)


def test_a_worker_that_hangs_while_it_loads_is_ended_and_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        bench = Bench(hangs=[1])
        await bench.pool.start()
        assert bench.pool.router.num_ready == 1
        assert bench.actors.started[0].died.done()
        assert (await bench.submit("a")).generation.request_id == "a"
        await until_in_time(lambda: bench.pool.router.num_ready == 2)
        assert [worker.pid for worker in bench.pool.workers if worker is not None] == [3, 2]
        assert (bench.pool.slots[0].deaths, bench.fatal) == (1, [])

    run(test())
    assert "worker 0 was not ready within 0.5 s and was ended" in caplog.text
    assert "group3_worker_0.log" in caplog.text
    assert "raise --start-timeout" in caplog.text


def test_a_worker_that_hangs_at_every_start_is_given_up_and_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        bench = Bench(hangs=[1, 3, 4, 5])
        await bench.pool.start()
        await until_in_time(lambda: "worker 0 is given up after 3 tries" in caplog.text)
        assert len(bench.actors.started) == 4
        assert all(bench.actors.started[index].died.done() for index in (0, 2, 3))
        assert (await bench.submit("a")).generation.request_id == "a"
        assert bench.fatal == []

    run(test())


def test_if_every_worker_hangs_the_start_fails() -> None:
    async def test() -> None:
        bench = Bench(hangs=[1, 2])
        with pytest.raises(WorkerError, match=r"worker 0 was not ready within 0\.5 s"):
            await bench.pool.start()
        assert all(actor.died.done() for actor in bench.actors.started)

    run(test())


def test_a_replacement_that_hangs_is_ended_too() -> None:
    async def test() -> None:
        bench = Bench(hangs=[3])
        await bench.pool.start()
        bench.actors.started[0].die()
        await until_in_time(lambda: bench.pool.restarts == 1)
        assert bench.actors.started[2].died.done()
        assert (bench.pool.slots[0].deaths, bench.fatal) == (2, [])

    run(test())


def test_a_limit_of_zero_is_none() -> None:
    async def test() -> None:
        bench = Bench(start_timeout_s=0.0)
        await bench.pool.start()
        assert bench.pool.router.num_ready == 2

    run(test())


def test_no_worker_is_given_up_where_it_is_the_last() -> None:
    async def test() -> None:
        bench = Bench(hangs=range(3, 20))
        await bench.pool.start()
        for actor in bench.actors.started[:2]:
            actor.die()
        await until_in_time(lambda: bool(bench.fatal))
        assert "was not ready within 0.5 s" in bench.fatal[0]
        assert bench.fatal[0].endswith(": 3 deaths in a row")

    run(test())
