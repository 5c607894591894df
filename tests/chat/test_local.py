"""A model in this process: what it is asked, its parts, and an answer that nobody waits for any more."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import pytest
from trimode.chat.answer import Reply
from trimode.chat.local import LocalModel, find_adapter
from trimode.chat.settings import Settings
from trimode.core.delta import Delta, OnDelta
from trimode.core.errors import ConfigError, GenerationError
from trimode.core.protocol import Cost, Generation

MESSAGES = [{"role": "user", "content": "hi"}]
COST = Cost(prompt_tokens=1, completion_tokens=2, nfe=2, queue_s=0.5, first_token_s=0.75, total_s=1.5)


class FakeWorker:
    """Says `Hello` in two parts, fails for temperature 1, and never ends for temperature 2."""

    def __init__(self) -> None:
        self.fields: dict[str, object] = {}
        self.cancelled = False

    async def generate(self, fields: Mapping[str, object], on_delta: OnDelta | None = None) -> Generation:
        self.fields = dict(fields)
        assert on_delta is not None
        on_delta(Delta(token_ids=[1], text="Hel"))
        on_delta(Delta(token_ids=[2], text=""))
        on_delta(Delta(token_ids=[3], text="lo"))
        if fields["temperature"] == 1:
            raise GenerationError("no pages")
        if fields["temperature"] == 2:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                self.cancelled = True
                raise
        return Generation(
            request_id="r", token_ids=[1, 2, 3], text="Hello", finish_reason="stop", cost=COST, trace=None
        )

    def close(self) -> None:
        return None


def ask(worker: FakeWorker, settings: Settings) -> list[str | Reply]:
    model = LocalModel(worker, "m", has_adapter=True)  # type: ignore[arg-type]

    async def run() -> list[str | Reply]:
        return [part async for part in model.answer(MESSAGES, settings)]

    return asyncio.run(run())


def test_parts_come_first_and_the_reply_last() -> None:
    worker = FakeWorker()
    *parts, reply = ask(worker, Settings(mode="dlm", max_new_tokens=7, top_k=3))
    assert parts == ["Hel", "lo"]
    assert isinstance(reply, Reply)
    assert (reply.text, reply.stats.seconds, reply.stats.first_token_s, reply.stats.nfe) == ("Hello", 1.0, 0.25, 2)
    assert worker.fields == {
        "messages": MESSAGES,
        "max_new_tokens": 7,
        "temperature": 0.0,
        "enable_thinking": False,
        "top_k": 3,
        "mode": "dlm",
        "lora": False,
        "block_length": 32,
        "threshold": 0.9,
    }


def test_a_refusal_comes_through() -> None:
    with pytest.raises(GenerationError, match="no pages"):
        ask(FakeWorker(), Settings(mode="ar", temperature=1))


def test_an_answer_that_is_stopped_is_cancelled_in_the_worker() -> None:
    worker = FakeWorker()
    model = LocalModel(worker, "m", has_adapter=False)  # type: ignore[arg-type]

    async def run() -> None:
        async def read() -> None:
            async for _ in model.answer(MESSAGES, Settings(mode="ar", temperature=2)):
                pass

        reading = asyncio.create_task(read())
        while not worker.fields:
            await asyncio.sleep(0.01)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)

    asyncio.run(run())
    assert worker.cancelled


def test_the_adapter_lies_in_the_model_or_is_named(tmp_path: Path) -> None:
    inside = tmp_path / "linear_spec_lora"
    inside.mkdir()
    (inside / "adapter_config.json").write_text("{}")
    assert find_adapter(tmp_path, None, "linear_spec_lora", needed=False) == str(inside)
    assert find_adapter(tmp_path / "other", str(inside), "x", needed=False) == str(inside)
    with pytest.raises(ConfigError, match="fetch_bundled_lora"):
        find_adapter(tmp_path, str(tmp_path / "nowhere"), "x", needed=False)


def test_the_mode_with_the_adapter_needs_one() -> None:
    assert "linear_spec_lora" in LocalModel(FakeWorker(), "m", has_adapter=True).modes  # type: ignore[arg-type]
    assert "linear_spec_lora" not in LocalModel(FakeWorker(), "m", has_adapter=False).modes  # type: ignore[arg-type]
