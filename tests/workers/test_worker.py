"""The worker's async face: concurrency, cancellation, errors, stats."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from trimode.tests.workers.conftest import micro_settings
from trimode.tests.workers.goldens import load_cases
from trimode.workers.protocol import GenerationError, WorkerError
from trimode.workers.worker import Worker

CASES = load_cases()[:11]


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    worker = Worker(micro_settings())
    yield worker
    worker.close()


def test_concurrent_requests_get_their_own_answers(worker: Worker) -> None:
    async def all_at_once() -> list[dict[str, object]]:
        return await asyncio.gather(*(worker.generate(case.fields) for case in CASES))

    for case, result in zip(CASES, asyncio.run(all_at_once()), strict=True):
        assert (result["token_ids"], result["nfe"], result["trace"]) == (case.tokens, case.nfe, case.trace)


def test_a_bad_request_is_refused_and_the_worker_lives(worker: Worker) -> None:
    with pytest.raises(GenerationError, match="mode: got 'x'"):
        asyncio.run(worker.generate({"mode": "x", "prompt_ids": [1]}))
    assert asyncio.run(worker.generate(CASES[0].fields))["nfe"] == CASES[0].nfe


def test_a_cancelled_task_frees_its_slot(worker: Worker) -> None:
    async def cancel() -> None:
        fields = {"mode": "ar", "prompt_ids": [1, 2], "max_new_tokens": 4000, "ignore_eos": True}
        task = asyncio.create_task(worker.generate(fields))
        while not worker.stats()["running"]:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while worker.stats()["running"]:
            await asyncio.sleep(0.01)

    asyncio.run(cancel())


def test_stats_add_up(worker: Worker) -> None:
    before = worker.stats()
    results = [asyncio.run(worker.generate(case.fields)) for case in CASES[:3]]
    after = worker.stats()
    assert after["nfe"] - before["nfe"] == sum(result["nfe"] for result in results)  # type: ignore[operator, misc]
    generated = sum(len(result["token_ids"]) for result in results)  # type: ignore[arg-type]
    assert after["tokens_generated"] - before["tokens_generated"] == generated  # type: ignore[operator]


def test_info_names_what_answers(worker: Worker) -> None:
    info = worker.info()
    assert info["lora"] is True
    assert len(str(info["weights_sha256"])) == 64
    assert info["max_model_len"] == 4096


def test_a_closed_worker_says_so() -> None:
    closed = Worker(micro_settings(lora=None))
    closed.close()
    with pytest.raises(WorkerError):
        asyncio.run(closed.generate(CASES[0].fields))
