"""Prompts are templated and tokenized beside the engine: decoding goes on, and a request that left is dropped."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping

import pytest
from trimode.core.errors import GenerationError, WorkerError
from trimode.core.field_rules import CHARACTERS_PER_TOKEN
from trimode.core.protocol import Generation
from trimode.tests.workers.conftest import micro_settings
from trimode.tests.workers.test_text import DEMO
from trimode.workers.stream import Listener
from trimode.workers.worker import Worker

ASK: dict[str, object] = {"mode": "ar", "prompt": "Tom has 3 apples.", "max_new_tokens": 4, "ignore_eos": True}
LONG = {**ASK, "max_new_tokens": 3000}


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker(micro_settings(model=str(DEMO), lora=None))
    yield worker
    worker.close()


def chat(content: str) -> dict[str, object]:
    return {"mode": "ar", "messages": [{"role": "user", "content": content}], "max_new_tokens": 4}


class Gate:
    """Replaces `encode` of a worker: it waits for texts that hold the word, until `open` is set."""

    def __init__(self, worker: Worker, monkeypatch: pytest.MonkeyPatch, word: str = "slow") -> None:
        self.entered, self.open = threading.Event(), threading.Event()
        self.calls = 0
        text = worker._runtime.text
        original = text.encode

        def encode(value: str) -> list[int]:
            self.calls += 1
            if word in value:
                self.entered.set()
                assert self.open.wait(300)
            return original(value)

        monkeypatch.setattr(text, "encode", encode)

    async def reached(self) -> None:
        while not self.entered.is_set():
            await asyncio.sleep(0.001)


async def steps(worker: Worker, count: int) -> None:
    """Returns after `count` more steps of the engine."""
    before = (await worker.stats()).steps
    while (await worker.stats()).steps < before + count:
        await asyncio.sleep(0.001)


def test_decoding_goes_on_while_a_prompt_is_tokenized(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(worker, monkeypatch)

    async def scene() -> Generation:
        decoding = asyncio.create_task(worker.generate(LONG))
        while not (await worker.stats()).running:
            await asyncio.sleep(0.001)
        slow = asyncio.create_task(worker.generate(ASK | {"prompt": "slow"}))
        await gate.reached()
        assert (await worker.stats()).waiting == 1
        await steps(worker, 20)
        assert len((await worker.generate(ASK)).token_ids) == 4  # another prompt passes by
        gate.open.set()
        decoding.cancel()
        return await slow

    result = asyncio.run(scene())
    assert len(result.token_ids) == 4


@pytest.mark.slow
def test_two_megabytes_do_not_stop_the_engine() -> None:
    """With a context that lets the text through to the tokenizer."""
    worker = Worker(micro_settings(model=str(DEMO), lora=None, max_position_embeddings=1 << 20, kv_cache_gb=0.3))
    assert worker.info().max_model_len * CHARACTERS_PER_TOKEN > 2_100_000
    inside, counts = threading.Event(), []
    text = worker._runtime.text
    original = text.encode

    def encode(value: str) -> list[int]:
        counts.append(worker._runtime.engine.counters.steps)
        inside.set()
        ids = original(value)
        counts.append(worker._runtime.engine.counters.steps)
        return ids

    async def scene() -> None:
        decoding = asyncio.create_task(worker.generate(LONG | {"max_new_tokens": 100_000}))
        while not (await worker.stats()).running:
            await asyncio.sleep(0.001)
        text.encode = encode  # type: ignore[method-assign]
        with pytest.raises(GenerationError, match=r"maximum context length|KV cache: "):
            await worker.generate(chat("Tom has 3 apples. " * 112_000))
        decoding.cancel()

    asyncio.run(scene())
    worker.close()
    assert counts[1] - counts[0] > 20


@pytest.mark.parametrize(
    "fields",
    [
        ASK | {"prompt": "a" * 10_000_000},
        chat("a" * 10_000_000),
        {"mode": "ar", "messages": [{"role": "user", "content": "abcdefgh" * 100}] * 2000},
        {"mode": "ar", "messages": [{"role": "user", "content": ""}] * 100_000},
        {"mode": "ar", "prompt_ids": [-1] * 1_000_000},  # the ids themselves are not looked at
    ],
    ids=["prompt", "message", "messages", "empty messages", "ids"],
)
def test_what_cannot_fit_is_refused_before_it_is_tokenized(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, fields: Mapping[str, object]
) -> None:
    gate = Gate(worker, monkeypatch)
    rendered: list[object] = []
    monkeypatch.setattr(worker._runtime.text, "render", lambda *given: rendered.append(given))
    with pytest.raises(GenerationError, match="valid: at most ") as caught:
        asyncio.run(worker.generate(fields))
    assert (caught.value.status, gate.calls, rendered) == (400, 0, [])
    assert len(caught.value.message) < 300


def test_a_prompt_of_the_allowed_size_is_tokenized(worker: Worker) -> None:
    """The bound is in characters; what is over the context in tokens is refused with the count."""
    most = CHARACTERS_PER_TOKEN * worker.info().max_model_len
    with pytest.raises(GenerationError, match="maximum context length"):
        asyncio.run(worker.generate(ASK | {"prompt": "a1" * (most // 2)}))


@pytest.mark.parametrize("by", ["task", "id"])
def test_a_request_that_leaves_while_it_is_tokenized_ends_at_once(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    gate = Gate(worker, monkeypatch)

    async def scene() -> None:
        asked = asyncio.create_task(worker.generate(chat("slow") | {"request_id": "x"}))
        await gate.reached()
        if by == "task":
            asked.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asked
        else:
            await worker.cancel("x")
            with pytest.raises(GenerationError, match="cancelled") as caught:
                await asked
            assert caught.value.status == 499
        assert len((await worker.generate(ASK | {"request_id": "x"})).token_ids) == 4  # its id is free
        gate.open.set()

    asyncio.run(scene())
    stats = asyncio.run(worker.stats())
    assert (stats.running, stats.waiting, stats.requests_failed) == (0, 0, 0)  # it never reached the engine


def test_requests_that_leave_before_their_turn_are_never_tokenized(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(worker, monkeypatch)

    async def scene() -> None:
        tasks = [asyncio.create_task(worker.generate(ASK | {"prompt": f"slow {number}"})) for number in range(40)]
        await gate.reached()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        gate.open.set()
        await worker.generate(ASK)

    asyncio.run(scene())
    assert gate.calls < 10


def test_a_worker_that_is_closed_while_it_tokenizes_fails_these_requests(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(worker, monkeypatch)

    async def scene() -> None:
        tasks = [asyncio.create_task(worker.generate(ASK | {"prompt": f"slow {number}"})) for number in range(5)]
        await gate.reached()
        closing = asyncio.get_running_loop().run_in_executor(None, worker.close)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(result) for result in results] == [WorkerError] * 5
        gate.open.set()
        await closing

    asyncio.run(scene())


ERRORS = [TypeError("x"), ZeroDivisionError(), MemoryError(), RecursionError(), KeyError("x"), OverflowError()]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("where", ["apply_chat_template", "encode", "decode", "stop_finder"])
def test_whatever_the_work_for_one_request_raises_is_its_own_error(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, where: str, error: Exception
) -> None:
    def fail(*_: object, **__: object) -> object:
        raise error

    async def scene() -> Generation:
        decoding = asyncio.create_task(worker.generate(ASK | {"max_new_tokens": 40}))
        while not (await worker.stats()).running:
            await asyncio.sleep(0.001)
        with monkeypatch.context() as patch:
            text = worker._runtime.text
            patch.setattr(text._tokenizer if where == "apply_chat_template" else text, where, fail)
            with pytest.raises(GenerationError, match=type(error).__name__) as caught:
                await worker.generate(chat("hi") | {"stop": "x"})
        assert caught.value.status in (400, 500)
        return await decoding

    fails_too = where == "decode"  # the reply of the other request may be made meanwhile
    try:
        assert len(asyncio.run(scene()).token_ids) == 40
    except GenerationError:
        assert fails_too
    assert len(asyncio.run(worker.generate(ASK)).token_ids) == 4


@pytest.mark.parametrize(
    "template", ["{{ 1 // 0 }}", "{{ messages + 1 }}", "{{ messages[5].x.y }}", "{{ raise_exception('no') }}"]
)
def test_a_chat_template_that_fails_is_that_request_s_error(worker: Worker, template: str) -> None:
    tokenizer = worker._runtime.text._tokenizer
    assert tokenizer is not None
    tokenizer.chat_template = template
    with pytest.raises(GenerationError, match="messages: the chat template refuses them: ") as caught:
        asyncio.run(worker.generate(chat("hi")))
    assert caught.value.status == 400
    assert len(asyncio.run(worker.generate(ASK)).token_ids) == 4


def test_a_defect_before_the_first_forward_leaves_nobody_waiting(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise KeyError("a secret of the prompt")

    monkeypatch.setattr(Listener, "begin", fail)
    work = worker.generate({"mode": "ar", "prompt_ids": [1], "max_new_tokens": 2}, lambda _: None)
    with pytest.raises(GenerationError, match="failed: KeyError in the preparation") as caught:
        asyncio.run(asyncio.wait_for(work, 60))
    assert caught.value.status == 500
