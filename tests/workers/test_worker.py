"""The worker: concurrency, cancellation, errors, stats."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from trimode.core.errors import GenerationError, WorkerError
from trimode.core.protocol import FORWARD_KINDS, Generation
from trimode.tests.workers.conftest import micro_settings
from trimode.tests.workers.micro import load_cases
from trimode.workers.engine import runner
from trimode.workers.model.kv_cache import pages_for
from trimode.workers.worker import Worker

CASES = load_cases()[:11]


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    worker = Worker(micro_settings())
    yield worker
    worker.close()


def test_concurrent_requests_get_their_own_answers(worker: Worker) -> None:
    async def all_at_once() -> list[Generation]:
        return await asyncio.gather(*(worker.generate(case.fields) for case in CASES))

    for case, result in zip(CASES, asyncio.run(all_at_once()), strict=True):
        assert (result.token_ids, result.cost.nfe, result.trace) == (case.tokens, case.nfe, case.trace)


def test_a_bad_request_is_refused_and_the_worker_lives(worker: Worker) -> None:
    with pytest.raises(GenerationError, match='mode: got "x"'):
        asyncio.run(worker.generate({"mode": "x", "prompt_ids": [1]}))
    assert asyncio.run(worker.generate(CASES[0].fields)).cost.nfe == CASES[0].nfe


def test_a_cancelled_task_frees_its_slot(worker: Worker) -> None:
    async def cancel() -> None:
        fields = {"mode": "ar", "prompt_ids": [1, 2], "max_new_tokens": 4000, "ignore_eos": True}
        task = asyncio.create_task(worker.generate(fields))
        while not (await worker.stats()).running:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while (await worker.stats()).running:
            await asyncio.sleep(0.01)

    asyncio.run(cancel())


def test_stats_add_up(worker: Worker) -> None:
    before = asyncio.run(worker.stats())
    results = [asyncio.run(worker.generate(case.fields)) for case in CASES[:3]]
    after = asyncio.run(worker.stats())
    assert after.nfe - before.nfe == sum(result.cost.nfe for result in results)
    assert after.tokens_generated - before.tokens_generated == sum(len(result.token_ids) for result in results)


def test_a_request_is_cancelled_by_its_id(worker: Worker) -> None:
    async def cancel() -> None:
        fields = {"mode": "ar", "prompt_ids": [1, 2], "max_new_tokens": 4000, "ignore_eos": True, "request_id": "long"}
        task = asyncio.create_task(worker.generate(fields))
        while not (await worker.stats()).running:
            await asyncio.sleep(0.01)
        await worker.cancel("unknown")
        await worker.cancel("long")
        with pytest.raises(GenerationError, match="cancelled"):
            await task

    asyncio.run(cancel())


class SteppedEngine:
    """Holds a worker's engine before each forward until `go` is called, under a clock that only its parts move.

    A step takes 0.5 s of packing, 3 s of model and 0.25 s of host per request that is handed its samples.
    """

    def __init__(self, worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self._arrived, self._go = threading.Semaphore(0), threading.Semaphore(0)
        engine = worker._runtime.engine
        forward = engine.model.forward

        def held(*arguments: Any) -> Any:
            self._arrived.release()
            self._go.acquire()
            self.now += 3.0
            return forward(*arguments)

        monkeypatch.setattr(engine.model, "forward", held)
        monkeypatch.setattr(engine.scheduler, "advance", self._slow(engine.scheduler.advance, 0.25))
        monkeypatch.setattr(runner, "pack", self._slow(runner.pack, 0.5))
        for module in ("engine", "runner"):
            monkeypatch.setattr(f"trimode.workers.engine.{module}.time", self)

    def perf_counter(self) -> float:
        return self.now

    def _slow(self, original: Callable[..., Any], seconds: float) -> Callable[..., Any]:
        def slow(*arguments: Any, **named: Any) -> Any:
            self.now += seconds
            return original(*arguments, **named)

        return slow

    async def at_forward(self) -> None:
        """Returns when the engine stands before its next forward."""
        while not self._arrived.acquire(blocking=False):
            await asyncio.sleep(0.001)

    def go(self, steps: int = 1) -> None:
        for _ in range(steps):
            self._go.release()


def test_stats_under_load_are_true(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker(micro_settings(max_num_seqs=3))
    stepped = SteppedEngine(worker, monkeypatch)
    prompts = [[1, number, 22, 18] for number in range(40, 45)]
    modes = ["ar", "dlm", "linear_spec", "linear_spec", "dlm"]

    def ask(place: int) -> asyncio.Task[Generation]:
        fields = {"prompt_ids": prompts[place], "mode": modes[place], "max_new_tokens": 20, "ignore_eos": True}
        return asyncio.create_task(worker.generate(fields | {"block_length": 4}))

    async def load() -> tuple[list[dict[str, Any]], list[Generation]]:
        tasks = [ask(0)]
        await stepped.at_forward()
        tasks += [ask(place) for place in range(1, 5)]
        await asyncio.sleep(0)
        assert (await worker.stats()).waiting == 4
        while worker._preparing:
            await asyncio.sleep(0.001)
        seen = [(await worker.stats()).to_json()]
        stepped.go()
        await stepped.at_forward()
        seen.append((await worker.stats()).to_json())
        stepped.go(1000)
        results = await asyncio.gather(*tasks)
        return [*seen, (await worker.stats()).to_json()], results

    (one, three, done), results = asyncio.run(load())
    worker.close()
    assert (one["running"], one["waiting"], one["steps"], one["tokens_per_second"]) == (1, 4, 0, None)
    assert (three["running"], three["waiting"], three["steps"]) == (3, 2, 1)
    per_request = pages_for(4 + 20 + 2 * 4)
    assert three["pages_total"] - three["pages_free"] == 3 * per_request
    assert three["forwards_per_second"] == 1 / 3.75
    assert three["host_gap"] == 0.75 / 3.75
    assert (done["running"], done["waiting"], done["pages_free"]) == (0, 0, done["pages_total"])
    check_totals(done, results)


def check_totals(done: dict[str, Any], results: list[Generation]) -> None:
    """The stats at the end follow from the five replies and from the clock."""
    assert done["rows"] == {kind: sum(result.cost.forwards[kind] for result in results) for kind in FORWARD_KINDS}
    tokens, nfe = sum(len(result.token_ids) for result in results), sum(result.cost.nfe for result in results)
    accepted = [length for result in results for length in result.cost.acceptance_lengths]
    steps = done["steps"]
    assert max(sum(result.cost.forwards.values()) for result in results) <= steps < sum(done["rows"].values())
    assert (tokens, done["tokens_generated"], done["nfe"]) == (100, 100, nfe)
    assert done["tpf"] == tokens / nfe
    assert done["acceptance_length"] == sum(accepted) / len(accepted)
    model_s, host_s = 3.0 * steps, 0.5 * steps + 0.25 * sum(done["rows"].values())
    assert (done["model_s"], done["host_s"]) == (model_s, host_s)
    assert done["host_gap"] == host_s / (model_s + host_s)
    assert done["tokens_per_second"] == tokens / (model_s + host_s)
    assert done["forwards_per_second"] == steps / (model_s + host_s)


def test_info_names_what_answers(worker: Worker) -> None:
    info = worker.info()
    assert info.lora is True
    assert len(info.weights_sha256) == 64
    assert info.max_model_len == 4096
    assert info.kernels["prefix_verify"] == "reference: the only implementation for a CPU"
    assert info.kernels["linear"].startswith(("cpu, ", "onednn: ", "reference: "))


def test_a_worker_says_once_at_start_what_runs(capfd: pytest.CaptureFixture[str]) -> None:
    started = Worker(micro_settings(lora=None))
    asyncio.run(started.generate(CASES[0].fields))
    started.close()
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("kernel ")]
    assert lines == [f"kernel {name}: {choice}" for name, choice in started.info().kernels.items()]
    assert len(lines) == 11


def test_a_closed_worker_says_so() -> None:
    closed = Worker(micro_settings(lora=None))
    closed.close()
    with pytest.raises(WorkerError):
        asyncio.run(closed.generate(CASES[0].fields))
