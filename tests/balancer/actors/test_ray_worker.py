"""A worker behind an actor: Ray's exceptions become the project's errors, each for the one who can act on it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from trimode.balancer.actors.ray_worker import RayWorker
from trimode.balancer.placement import Placement
from trimode.core.delta import Delta
from trimode.core.errors import ConfigError, GenerationError, WorkerError
from trimode.core.protocol import WorkerSettings
from trimode.core.worker import WorkerStats
from trimode.tests.fakes.actors import FakeActor, FakeActors, run

PLACEMENT = Placement(1, 0, WorkerSettings(model="m"))


async def started(actors: FakeActors) -> tuple[RayWorker, FakeActor]:
    worker = RayWorker(actors, "worker 0", Path("worker_0.log"), actors.door)
    await worker.start("module:Class", PLACEMENT)
    return worker, actors.started[0]


def test_a_started_worker_says_what_it_is() -> None:
    async def test() -> None:
        worker, _ = await started(FakeActors())
        assert (worker.info().model, worker.pid) == ("m", 1)

    run(test())


def test_the_reason_why_it_cannot_start_arrives() -> None:
    async def test() -> None:
        with pytest.raises(WorkerError, match="worker 0 cannot start: model: got x"):
            await started(FakeActors({1: ConfigError("model: got x")}))

    run(test())


def test_a_death_during_the_start_is_a_worker_error() -> None:
    async def test() -> None:
        actors = FakeActors()
        worker = RayWorker(actors, "worker 0", Path("worker_0.log"), actors.door)
        actors.started[0].die()
        with pytest.raises(WorkerError, match="worker 0 died while it started"):
            await worker.start("module:Class", PLACEMENT)

    run(test())


def test_a_refusal_keeps_message_and_status() -> None:
    async def test() -> None:
        worker, actor = await started(FakeActors())
        actor.answers["bad"] = GenerationError("top_p: got 7", 400)
        with pytest.raises(GenerationError, match="top_p: got 7") as caught:
            await worker.generate({"request_id": "bad"})
        assert caught.value.status == 400
        assert (await worker.generate({"request_id": "good"})).request_id == "good"

    run(test())


def test_a_bug_is_this_requests_error_and_shows_no_details(capsys: pytest.CaptureFixture[str]) -> None:
    async def test() -> None:
        worker, actor = await started(FakeActors())
        actor.answers["bad"] = ValueError("a secret")
        with pytest.raises(GenerationError, match="its log has the cause") as caught:
            await worker.generate({"request_id": "bad"})
        assert caught.value.status == 500
        assert not actor.died.done()
        captured = capsys.readouterr()
        assert "ValueError" in captured.err
        assert "a secret" not in captured.err

    run(test())


def test_questions_about_text_are_answered_beside_the_requests() -> None:
    async def test() -> None:
        worker, _ = await started(FakeActors())
        assert await worker.text("tokenize", {"prompt": "ab"}) == {"tokens": [97, 98]}
        with pytest.raises(GenerationError, match="tokens: got"):
            await worker.text("detokenize", {"tokens": "x"})

    run(test())


def test_the_parts_of_an_answer_arrive_in_order_before_the_whole() -> None:
    async def test() -> None:
        worker, actor = await started(FakeActors())
        sent = [
            Delta(
                token_ids=[1, 2],
                logprobs=[-0.5, float("-inf")],
                tops=[[[1, -0.5]], []],
                text="ab\n\u00e9",
                passes=[{"block": 0}],
                boundary={"end": 2},
            ),
            Delta(token_ids=[], passes=[], text="c"),
        ]
        actor.parts["r"] = sent
        found: list[Delta] = []
        assert (await worker.generate({"request_id": "r"}, found.append)).request_id == "r"
        assert [part.to_json() for part in found] == [part.to_json() for part in sent]
        found.clear()
        await worker.generate({"request_id": "r"})
        assert found == []

    run(test())


def test_a_dead_process_is_a_worker_error_and_has_no_stats() -> None:
    async def test() -> None:
        worker, actor = await started(FakeActors())
        assert await worker.stats() == WorkerStats(steps=1)
        actor.die()
        with pytest.raises(WorkerError, match="worker 0 died"):
            await worker.generate({"request_id": "r"})
        with pytest.raises(WorkerError, match="worker 0 died"):
            await worker.stats()
        await worker.cancel("r")
        assert await worker.wait_until_dead() == "ActorDiedError"

    run(test())


def test_an_unreachable_process_is_ended() -> None:
    async def test() -> None:
        worker, actor = await started(FakeActors())
        actor.answers["r"] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(0.01, actor.hang_up)
        with pytest.raises(WorkerError, match="worker 0 died"):
            await worker.generate({"request_id": "r"})
        assert actor.died.done()

    run(test())


def test_cancelling_and_closing_reach_the_actor() -> None:
    async def test() -> None:
        worker, actor = await started(FakeActors())
        await worker.cancel("r")
        await worker.stats()  # calls arrive in order
        worker.close()
        assert actor.cancelled == ["r"]
        assert actor.died.done()

    run(test())


def test_a_flush_reaches_the_worker_and_a_dead_one_holds_nobody_up() -> None:
    async def test() -> None:
        worker, actor = await started(FakeActors())
        await worker.flush()
        assert actor.worker.flushed == 1
        actor.die()
        await worker.flush()
        assert actor.worker.flushed == 1

    run(test())
