"""Which worker gets which request, with hand-held workers in place of processes."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any

import pytest
from trimode.balancer import health
from trimode.balancer.health import MANY
from trimode.balancer.router import MAX_HELD_PROMPT_TOKENS, Router
from trimode.balancer.work import MAX_ATTEMPTS, RETRY_AFTER_STOP_S, QueueFullError, Reply, StoppingError, WorkerSlot
from trimode.core.delta import Delta, OnDelta
from trimode.core.errors import GenerationError, WorkerError
from trimode.core.protocol import Generation
from trimode.core.worker import Worker, WorkerInfo, WorkerStats
from trimode.tests.fakes.worker import generation, worker_info


class HeldWorker(Worker):
    """Holds every request until the test lets it go or fails it."""

    def __init__(self) -> None:
        self.held: dict[str, asyncio.Future[Generation]] = {}
        self.cancelled: list[str] = []

    def info(self) -> WorkerInfo:
        return worker_info()

    async def stats(self) -> WorkerStats:
        return WorkerStats(running=len(self.held))

    def close(self) -> None:
        self.die()

    async def generate(self, fields: Mapping[str, Any], on_delta: OnDelta | None = None) -> Generation:  # noqa: ARG002
        future: asyncio.Future[Generation] = asyncio.get_running_loop().create_future()
        self.held[fields["request_id"]] = future
        try:
            return await future
        finally:
            del self.held[fields["request_id"]]

    async def cancel(self, request_id: str) -> None:
        self.cancelled.append(request_id)
        self.held[request_id].set_exception(GenerationError("cancelled", 499))

    def finish(self, request_id: str) -> None:
        self.held[request_id].set_result(generation(text=request_id))

    def die(self) -> None:
        for future in list(self.held.values()):
            future.set_exception(WorkerError("it died"))


class Bench:
    """A router over held workers; a death is noted, and the slot stays empty until the test refills it."""

    def __init__(self, num_workers: int, in_flight_limit: int = 4, max_queue: int = 8) -> None:
        self.workers = [HeldWorker() for _ in range(num_workers)]
        slots = [WorkerSlot(index, worker=worker) for index, worker in enumerate(self.workers)]
        self.deaths: list[int] = []
        self.router = Router(
            slots,
            in_flight_limit=in_flight_limit,
            max_queue=max_queue,
            on_death=lambda slot, _: self.deaths.append(slot.index),
        )

    def submit(self, name: str, **fields: Any) -> asyncio.Task[Reply]:
        prompt_tokens = fields.pop("prompt_tokens", 0)
        work = self.router.submit(name, {"request_id": name, **fields}, prompt_tokens)
        return asyncio.get_running_loop().create_task(work)

    def refill(self, index: int) -> None:
        self.workers[index] = HeldWorker()
        self.router.slots[index].worker = self.workers[index]
        self.router.dispatch()

    def where(self) -> list[list[str]]:
        return [sorted(worker.held) for worker in self.workers]


async def run_callbacks() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)


def test_requests_spread_over_workers() -> None:
    async def test() -> None:
        bench = Bench(3)
        tasks = [bench.submit(f"r{index}") for index in range(6)]
        await run_callbacks()
        assert [len(names) for names in bench.where()] == [2, 2, 2]
        for task in tasks:
            task.cancel()

    run(test())


def test_least_outstanding_work_counts_tokens_not_requests() -> None:
    async def test() -> None:
        bench = Bench(2)
        tasks = [bench.submit("long", max_new_tokens=250)]
        await run_callbacks()
        tasks += [bench.submit(f"short{index}", max_new_tokens=10) for index in range(4)]
        await run_callbacks()
        assert bench.where() == [["long"], ["short0", "short1", "short2", "short3"]]
        for task in tasks:
            task.cancel()

    run(test())


def test_a_long_prompt_weighs_too() -> None:
    async def test() -> None:
        bench = Bench(2)
        tasks = [bench.submit("a", max_new_tokens=10, prompt_tokens=1600), bench.submit("b", max_new_tokens=10)]
        tasks.append(bench.submit("c", max_new_tokens=10))
        await run_callbacks()
        assert bench.where() == [["a"], ["b", "c"]]
        for task in tasks:
            task.cancel()

    run(test())


def test_what_does_not_fit_waits_in_order_of_arrival() -> None:
    async def test() -> None:
        bench = Bench(1, in_flight_limit=1)
        tasks = [bench.submit(name) for name in ("a", "b", "c")]
        for name in ("a", "b", "c"):
            await run_callbacks()
            assert bench.where() == [[name]]
            bench.workers[0].finish(name)
        replies = await asyncio.gather(*tasks)
        assert [reply.generation.text for reply in replies] == ["a", "b", "c"]
        assert bench.router.slots[0].outstanding == 0

    run(test())


def test_a_full_queue_refuses() -> None:
    async def test() -> None:
        bench = Bench(1, in_flight_limit=1, max_queue=2)
        tasks = [bench.submit(name) for name in ("a", "b", "c")]
        await run_callbacks()
        with pytest.raises(QueueFullError) as caught:
            await bench.submit("d")
        assert caught.value.status == 429
        assert caught.value.retry_after_s >= 1
        for task in tasks:
            task.cancel()

    run(test())


def test_requests_of_a_dead_worker_are_answered_by_another() -> None:
    async def test() -> None:
        bench = Bench(2)
        tasks = [bench.submit(name) for name in ("a", "b")]
        await run_callbacks()
        bench.workers[0].die()
        await run_callbacks()
        assert bench.where() == [[], ["a", "b"]]
        assert bench.deaths == [0]
        for name in ("a", "b"):
            bench.workers[1].finish(name)
        await asyncio.gather(*tasks)
        assert bench.router.retried == 1

    run(test())


def test_one_death_with_many_requests_is_one_death() -> None:
    async def test() -> None:
        bench = Bench(1)
        tasks = [bench.submit(name) for name in ("a", "b", "c")]
        await run_callbacks()
        bench.workers[0].die()
        await run_callbacks()
        assert bench.deaths == [0]
        assert len(bench.router.queue) == 3
        bench.refill(0)
        await run_callbacks()
        assert bench.where() == [["a", "b", "c"]]
        for task in tasks:
            task.cancel()

    run(test())


def test_attempts_end_with_a_worker_error() -> None:
    async def test() -> None:
        bench = Bench(1)
        task = bench.submit("poison")
        for _ in range(MAX_ATTEMPTS):
            await run_callbacks()
            bench.workers[0].die()
            await run_callbacks()
            bench.refill(0)
        with pytest.raises(WorkerError, match="3 attempts"):
            await task

    run(test())


def test_the_last_attempt_is_made_away_from_other_suspects() -> None:
    async def test() -> None:
        bench = Bench(1)
        tasks = [bench.submit(name) for name in ("poison", "innocent")]
        for _ in range(MAX_ATTEMPTS - 1):
            await run_callbacks()
            bench.workers[0].die()
            await run_callbacks()
            bench.refill(0)
        await run_callbacks()
        assert [len(names) for names in bench.where()] == [1]
        alone = bench.where()[0][0]
        bench.workers[0].die() if alone == "poison" else bench.workers[0].finish(alone)
        await run_callbacks()
        if alone == "poison":
            bench.refill(0)
            await run_callbacks()
        other = bench.where()[0][0]
        bench.workers[0].die() if other == "poison" else bench.workers[0].finish(other)
        with pytest.raises(WorkerError):
            await tasks[0]
        assert (await tasks[1]).generation.text == "innocent"

    run(test())


def test_a_request_error_is_not_retried_and_kills_nobody() -> None:
    async def test() -> None:
        bench = Bench(1)
        task = bench.submit("bad")
        await run_callbacks()
        bench.workers[0].held["bad"].set_exception(GenerationError("top_p: got 3", 400))
        with pytest.raises(GenerationError, match="top_p"):
            await task
        assert bench.deaths == []
        assert bench.router.retried == 0

    run(test())


def test_cancelling_a_running_request_tells_its_worker() -> None:
    async def test() -> None:
        bench = Bench(2)
        task = bench.submit("a")
        await run_callbacks()
        task.cancel()
        await run_callbacks()
        assert bench.workers[0].cancelled == ["a"]
        assert bench.router.num_running == 0

    run(test())


def test_a_cancelled_request_has_not_failed() -> None:
    async def test() -> None:
        bench = Bench(1)
        tasks = [bench.submit(name) for name in ("left", "bad")]
        await run_callbacks()
        tasks[0].cancel()
        bench.workers[0].held["bad"].set_exception(GenerationError("generation failed: it cannot", 500))
        await run_callbacks()
        assert isinstance(tasks[1].exception(), GenerationError)
        assert (bench.router.cancelled, bench.router.slots[0].failed) == (1, 1)

    run(test())


def test_a_request_that_a_worker_refuses_has_not_failed() -> None:
    async def test() -> None:
        bench = Bench(1)
        task = bench.submit("bad")
        await run_callbacks()
        bench.workers[0].held["bad"].set_exception(GenerationError("mode: got 'xx'", 400))
        await run_callbacks()
        assert isinstance(task.exception(), GenerationError)
        assert (bench.router.cancelled, bench.router.slots[0].failed) == (0, 0)

    run(test())


def test_a_death_with_requests_is_charged_to_them_and_an_idle_death_to_the_slot() -> None:
    async def test() -> None:
        bench = Bench(1)
        tasks = [bench.submit(name) for name in ("a", "b")]
        await run_callbacks()
        bench.workers[0].die()
        await run_callbacks()
        slot = bench.router.slots[0]
        assert (slot.deaths, slot.deaths_in_a_row) == (1, 0)
        for task in tasks:
            task.cancel()
        await run_callbacks()
        bench.refill(0)
        bench.router.slot_died(slot, bench.workers[0], "it died idle")
        assert (slot.deaths, slot.deaths_in_a_row) == (2, 1)

    run(test())


def test_a_last_attempt_gets_a_worker_for_itself_and_new_requests_do_not_delay_it() -> None:
    async def test() -> None:
        bench = Bench(2)
        tasks = [bench.submit("suspect")]
        for _ in range(MAX_ATTEMPTS - 1):
            await run_callbacks()
            index = next(index for index, worker in enumerate(bench.workers) if worker.held)
            others = [bench.submit(f"{index}{number}", prompt_tokens=8000) for number in range(2)]
            await run_callbacks()
            tasks += others
            bench.workers[index].die()
            await run_callbacks()
            bench.refill(index)
        while not any(names == ["suspect"] for names in bench.where()):
            assert all("suspect" not in names for names in bench.where())
            tasks.append(bench.submit(f"new{len(tasks)}"))
            await run_callbacks()
            least = min((worker for worker in bench.workers if worker.held), key=lambda worker: len(worker.held))
            least.finish(next(iter(least.held)))
            await run_callbacks()
        tasks.append(bench.submit("later"))
        await run_callbacks()
        assert ["suspect"] in bench.where()
        for task in tasks:
            task.cancel()

    run(test())


def test_replies_are_taken_in_whole_or_not_at_all() -> None:
    async def test() -> None:
        bench = Bench(1, in_flight_limit=4, max_queue=2)
        bench.router.check_room(6)
        with pytest.raises(GenerationError, match="n: got 7; valid here: at most 6") as caught:
            bench.router.check_room(7)
        assert caught.value.status == 400
        task = bench.submit("a")
        await run_callbacks()
        bench.router.check_room(5)
        with pytest.raises(QueueFullError):
            bench.router.check_room(6)
        assert bench.router.rejected == 1
        task.cancel()

    run(test())


def test_the_prompts_that_are_held_are_bounded() -> None:
    async def test() -> None:
        bench = Bench(1)
        task = bench.submit("huge", prompt_tokens=MAX_HELD_PROMPT_TOKENS)
        await run_callbacks()
        with pytest.raises(QueueFullError, match="the prompts that wait or run hold"):
            await bench.submit("one more", prompt_tokens=1)
        bench.workers[0].finish("huge")
        await task
        bench.submit("now", prompt_tokens=1).cancel()

    run(test())


def test_cancelling_a_waiting_request_forgets_it() -> None:
    async def test() -> None:
        bench = Bench(1, in_flight_limit=1)
        first, second = bench.submit("a"), bench.submit("b")
        await run_callbacks()
        second.cancel()
        await run_callbacks()
        assert not bench.router.queue
        bench.workers[0].finish("a")
        await first
        await run_callbacks()
        assert bench.where() == [[]]

    run(test())


def test_the_end_of_the_process_fails_what_is_left() -> None:
    async def test() -> None:
        bench = Bench(1, in_flight_limit=1)
        tasks = [bench.submit(name) for name in ("a", "b")]
        await run_callbacks()
        bench.router.fail_all(GenerationError("stopping", 503))
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [str(result) for result in results] == ["stopping", "stopping"]

    run(test())


def test_a_repeat_and_a_later_turn_go_to_the_worker_that_has_the_prompt() -> None:
    async def test() -> None:
        bench = Bench(3)
        turn = [{"role": "user", "content": "a long question " * 200}]
        later = [*turn, {"role": "assistant", "content": "yes"}, {"role": "user", "content": "why?"}]
        tasks = [bench.submit("other"), bench.submit("first", messages=turn)]
        await run_callbacks()
        assert bench.where() == [["other"], ["first"], []]
        bench.workers[1].finish("first")
        await run_callbacks()
        tasks += [bench.submit("repeat", messages=turn), bench.submit("later", messages=later)]
        await run_callbacks()
        assert bench.where() == [["other"], ["later", "repeat"], []]
        for task in tasks:
            task.cancel()

    run(test())


def test_a_worker_that_is_far_behind_does_not_get_its_prompts() -> None:
    async def test() -> None:
        bench = Bench(2)
        turn = [{"role": "user", "content": "a long question " * 200}]
        tasks = [bench.submit(f"r{number}", messages=turn, prompt_tokens=800) for number in range(6)]
        await run_callbacks()
        assert bench.where() == [["r0", "r1", "r4"], ["r2", "r3", "r5"]]
        for task in tasks:
            task.cancel()

    run(test())


def test_a_short_prompt_is_no_reason_to_wait() -> None:
    async def test() -> None:
        bench = Bench(2)
        turn = [{"role": "user", "content": "hello"}]
        tasks = [bench.submit(f"r{number}", messages=turn) for number in range(4)]
        await run_callbacks()
        assert bench.where() == [["r0", "r2"], ["r1", "r3"]]
        for task in tasks:
            task.cancel()

    run(test())


def test_the_prompts_of_a_dead_worker_go_anywhere() -> None:
    async def test() -> None:
        bench = Bench(2)
        turn = [{"role": "user", "content": "hello"}]
        tasks = [bench.submit("a"), bench.submit("b", messages=turn)]
        await run_callbacks()
        bench.workers[1].die()
        await run_callbacks()
        bench.refill(1)
        await run_callbacks()
        tasks.append(bench.submit("c", messages=turn))
        await run_callbacks()
        assert bench.where() == [["a", "b"], ["c"]]
        for task in tasks:
            task.cancel()

    run(test())


def test_a_router_that_stops_ends_what_it_has_and_takes_no_more() -> None:
    async def test() -> None:
        bench = Bench(1, in_flight_limit=1)
        tasks = [bench.submit("a"), bench.submit("b")]
        await run_callbacks()
        bench.router.stopping = True
        idle = asyncio.ensure_future(bench.router.wait_until_idle())
        with pytest.raises(StoppingError) as caught:
            await bench.submit("c")
        assert (caught.value.status, caught.value.retry_after_s) == (503, RETRY_AFTER_STOP_S)
        with pytest.raises(StoppingError):
            bench.router.check_room(1)
        bench.workers[0].finish("a")
        await run_callbacks()
        assert not idle.done()
        bench.workers[0].finish("b")
        await asyncio.gather(*tasks)
        await idle

    run(test())


def test_a_defect_of_a_worker_leaves_nobody_waiting() -> None:
    async def test() -> None:
        bench = Bench(1)
        task = bench.submit("r")
        await run_callbacks()
        bench.workers[0].held["r"].set_exception(KeyError("x"))
        with pytest.raises(KeyError):
            await asyncio.wait_for(task, 30)
        assert bench.router.num_running == 0

    run(test())


def test_an_answer_that_nobody_can_take_ends_alone() -> None:
    class Streaming(HeldWorker):
        async def generate(self, fields: Mapping[str, Any], on_delta: OnDelta | None = None) -> Generation:
            work = asyncio.ensure_future(super().generate(fields))
            await asyncio.sleep(0)
            if on_delta is not None:
                on_delta(Delta(token_ids=[1], text="a"))
            return await work

    def refuse(_: Delta) -> None:
        raise ZeroDivisionError

    async def test() -> None:
        bench = Bench(1)
        bench.workers[0] = bench.router.slots[0].worker = Streaming()
        mate = bench.submit("mate")
        with pytest.raises(ZeroDivisionError):
            await bench.router.submit("bad", {"request_id": "bad"}, 0, refuse)
        await run_callbacks()
        assert bench.workers[0].cancelled == ["bad"]
        bench.workers[0].finish("mate")
        assert (await mate).generation.text == "mate"
        assert bench.deaths == []

    run(test())


def fail(worker: HeldWorker, request_id: str, status: int = 500) -> None:
    worker.held[request_id].set_exception(GenerationError("generation failed: it cannot", status))


def test_a_worker_that_fails_every_request_does_not_get_them_all() -> None:
    async def test() -> None:
        bench = Bench(2)
        bad, good = bench.workers
        tasks, got = [], 0
        for number in range(60):
            tasks.append(bench.submit(str(number)))
            for _ in range(6):
                await run_callbacks()
                for name in [*bad.held]:
                    got += 1
                    fail(bad, name)
                if len(good.held) > 2:  # the good one is always the one with more to do
                    good.finish(next(iter(good.held)))
        while good.held:
            good.finish(next(iter(good.held)))
            await run_callbacks()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        failed = [end for end in ends if isinstance(end, Exception)]
        assert len(failed) == 1  # the first one; then another worker was asked too
        assert got == MANY

    run(test())


def test_a_worker_that_answers_again_gets_its_share_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        now = 1000.0
        monkeypatch.setattr(health, "monotonic", lambda: now)
        bench = Bench(2)
        bad, good = bench.workers
        for _ in range(MANY):
            bench.router.slots[0].health.failed()
        tasks = [bench.submit("a"), bench.submit("b")]
        await run_callbacks()
        assert (set(bad.held), set(good.held)) == (set(), {"a", "b"})
        now += health.FIRST_REST_S
        tasks += [bench.submit("c"), bench.submit("d")]
        await run_callbacks()
        assert (set(bad.held), set(good.held)) == ({"c"}, {"a", "b", "d"})  # one request as a try
        bad.finish("c")
        await tasks[2]
        tasks += [bench.submit("e"), bench.submit("f")]
        await run_callbacks()
        assert set(bad.held) == {"e", "f"}
        for worker in bench.workers:
            for name in [*worker.held]:
                worker.finish(name)
        await asyncio.gather(*tasks)

    run(test())


def test_requests_that_fail_everywhere_are_no_fault_of_the_workers() -> None:
    async def test() -> None:
        bench = Bench(2)
        for number in range(20):
            task = bench.submit(str(number))
            while not task.done():
                await run_callbacks()
                for worker in bench.workers:
                    for name in [*worker.held]:
                        fail(worker, name)
            assert isinstance(task.exception(), GenerationError)
        assert all(slot.health.fails for slot in bench.router.slots)
        tasks = [bench.submit("a"), bench.submit("b")]
        await run_callbacks()
        assert [len(worker.held) for worker in bench.workers] == [1, 1]
        for worker in bench.workers:
            worker.finish(next(iter(worker.held)))
        await asyncio.gather(*tasks)
        assert not any(slot.health.fails for slot in bench.router.slots)

    run(test())


@pytest.mark.parametrize("status", [400, 499])
def test_refused_and_ended_requests_say_nothing_of_a_worker(status: int) -> None:
    async def test() -> None:
        bench = Bench(2)
        for number in range(10):
            task = bench.submit(str(number))
            await run_callbacks()
            fail(bench.workers[0], str(number), status)
            await asyncio.wait([task])
            assert isinstance(task.exception(), GenerationError)
        assert bench.router.slots[0].health.failures == 0
        assert bench.router.retried == 0

    run(test())


def test_one_failure_is_not_tried_elsewhere() -> None:
    async def test() -> None:
        bench = Bench(2)
        task = bench.submit("a")
        await run_callbacks()
        fail(bench.workers[0], "a")
        await asyncio.wait([task])
        assert isinstance(task.exception(), GenerationError)
        assert bench.router.retried == 0

    run(test())
