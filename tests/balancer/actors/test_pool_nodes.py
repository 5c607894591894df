"""The pool over fake actors on two nodes: what becomes of workers whose node ends, comes late or comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from trimode.balancer.actors import nodes as nodes_module
from trimode.balancer.actors import pool as pool_module
from trimode.balancer.actors.nodes import LivingNode, Nodes, living_nodes
from trimode.balancer.actors.pool import WorkerPool
from trimode.balancer.placement import Placement
from trimode.balancer.settings import BalancerSettings
from trimode.core.errors import ConfigError, TrimodeError, WorkerError
from trimode.core.protocol import WorkerSettings
from trimode.tests.fakes.actors import FakeActors, run

WORKER = WorkerSettings(model="m", max_num_seqs=4)
FIRST, SECOND = LivingNode("id-a", "a"), LivingNode("id-b", "b")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes_module, "LOOK_EVERY_S", 0.001)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.001)


class Bench:
    """A pool of two nodes with two workers each. `living` may be changed."""

    def __init__(self, refusals: dict[int, TrimodeError] | None = None) -> None:
        self.living = {0: FIRST, 1: SECOND}
        self.actors = FakeActors(refusals)
        self.fatal: list[str] = []
        self.lost: list[dict[str, int]] = []
        settings = BalancerSettings(worker=WORKER, max_worker_deaths=2)
        placement, nodes = Placement(2, 0, WORKER, 2), Nodes(2, lambda: dict(self.living))
        self.pool = WorkerPool(
            settings, placement, Path("logs"), self.fatal.append, self.actors.door, self.actors, nodes
        )
        self.pool.on_change = lambda: self.lost.append(self.pool.lost)

    def end_second_node(self) -> None:
        self.living.pop(1)
        for actor, node in zip(self.actors.started, self.actors.nodes, strict=True):
            if node == SECOND.node_id:
                actor.die()


def test_the_workers_are_spread_over_the_nodes() -> None:
    async def test() -> None:
        bench = Bench()
        await bench.pool.start()
        assert bench.actors.nodes == ["id-a", "id-a", "id-b", "id-b"]
        assert [worker["node"] for worker in (await bench.pool.stats())["workers"]] == [0, 0, 1, 1]
        assert (bench.pool.router.num_ready, bench.pool.lost) == (4, {})

    run(test())


def test_one_node_asks_ray_for_no_place() -> None:
    async def test() -> None:
        actors = FakeActors()
        settings = BalancerSettings(worker=WORKER)
        pool = WorkerPool(settings, Placement(2, 0, WORKER), Path("logs"), print, actors.door, actors)
        await pool.start()
        assert actors.nodes == ["", ""]

    run(test())


def test_workers_of_a_node_that_ends_are_lost_and_their_requests_are_answered_elsewhere() -> None:
    async def test() -> None:
        bench = Bench()
        await bench.pool.start()
        for actor in bench.actors.started:
            actor.answers["held"] = asyncio.get_running_loop().create_future()
        for slot in bench.pool.slots[:2]:
            slot.outstanding = 1e9  # so that the request goes to the second node
        task = asyncio.ensure_future(bench.pool.router.submit("held", {"request_id": "held"}, 0))
        await until(lambda: bench.pool.router.num_running == 1)
        for actor in bench.actors.started[:2]:
            del actor.answers["held"]
        bench.end_second_node()
        assert (await task).generation.request_id == "held"
        await until(lambda: bench.pool.lost == {"b": 2})
        assert bench.pool.router.num_ready == 2
        assert bench.fatal == [] and bench.lost[-1] == {"b": 2}
        assert len(bench.actors.started) == 4, "a worker was started on a node that is not there"

    run(test())


def test_a_start_that_fails_because_its_node_has_ended_is_no_death() -> None:
    async def test() -> None:
        bench = Bench({5: WorkerError("unreachable"), 6: WorkerError("unreachable")})
        await bench.pool.start()
        bench.actors.started[2].die()  # Ray does not know yet that the node has ended
        await until(lambda: len(bench.actors.started) == 5)
        bench.living.pop(1)
        await until(lambda: bench.pool.lost == {"b": 1} or bool(bench.fatal))
        assert bench.fatal == []

    run(test())


def test_a_node_that_joins_again_gets_its_workers_back() -> None:
    async def test() -> None:
        bench = Bench()
        await bench.pool.start()
        bench.end_second_node()
        await until(lambda: bench.pool.lost == {"b": 2})
        bench.living[1] = LivingNode("id-b2", "b")
        await until(lambda: bench.pool.router.num_ready == 4)
        assert bench.actors.nodes[4:] == ["id-b2", "id-b2"]
        assert bench.lost[-1] == {}

    run(test())


def test_a_node_that_does_not_join_in_time_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "JOIN_S", 0.05)

    async def test() -> None:
        bench = Bench()
        bench.living.pop(1)
        await bench.pool.start()
        assert bench.pool.lost == {"node 2 of 2": 2}
        assert (len(bench.pool.infos), bench.pool.router.num_ready) == (2, 2)

    run(test())


def test_a_further_worker_that_keeps_dying_is_given_up_and_the_first_nodes_end_the_server() -> None:
    async def test() -> None:
        refusal = ConfigError("the GPU is broken")
        bench = Bench({5: refusal, 6: refusal, 7: refusal})
        await bench.pool.start()
        bench.actors.started[3].die()
        await until(lambda: bench.pool.lost == {"b": 1})
        assert bench.fatal == [] and bench.pool.router.num_ready == 3
        bench.actors.started[0].die()
        await until(lambda: bool(bench.fatal))
        assert "worker 0" in bench.fatal[0]

    run(test())


def test_a_worker_that_cannot_start_on_a_living_node_fails_the_start() -> None:
    async def test() -> None:
        bench = Bench({4: ConfigError("no weights")})
        with pytest.raises(WorkerError, match="worker 3 cannot start: no weights"):
            await bench.pool.start()
        await until(lambda: len(asyncio.all_tasks()) == 1)  # the others have started, too

    run(test())


def test_further_nodes_are_known_by_their_number() -> None:
    listed = [
        {"Alive": True, "NodeID": "h", "NodeName": "a", "Resources": {"CPU": 1.0}},
        {"Alive": False, "NodeID": "old", "NodeName": "b", "Resources": {"trimode_node_1": 1.0}},
        {"Alive": True, "NodeID": "new", "NodeName": "b", "Resources": {"CPU": 1.0, "trimode_node_1": 1.0}},
    ]
    assert living_nodes(listed) == {1: LivingNode("new", "b")}
