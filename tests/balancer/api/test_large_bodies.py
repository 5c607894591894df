"""Large bodies are read beside the event loop: health checks and other requests are answered meanwhile."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import pytest
from trimode.balancer.api import service
from trimode.balancer.api.body import read_json
from trimode.tests.fakes.app import HELLO, AppBench, StrictWorker, error_of, post

LARGE = {"messages": HELLO, "padding": "x" * service.LARGE_BODY_BYTES}


def test_the_server_answers_while_a_large_body_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()
    in_time: list[bool] = []

    def read_slowly(body: bytes, max_model_len: int | None = None) -> dict[str, Any]:
        if len(body) >= service.LARGE_BODY_BYTES:
            in_time.append(answered.wait(5))
        return read_json(body, max_model_len)

    monkeypatch.setattr(service, "read_json", read_slowly)

    async def test() -> None:
        async with AppBench(StrictWorker).client() as client:
            large = [asyncio.create_task(post(client, LARGE)) for _ in range(3)]
            await asyncio.sleep(0.1)
            assert (await client.get("/health")).status_code == 200
            assert (await post(client, {"messages": HELLO})).status_code == 200
            answered.set()
            assert [reply.status_code for reply in await asyncio.gather(*large)] == [200] * 3

    asyncio.run(test())
    assert in_time == [True] * 3


def test_the_refusal_of_a_large_body_names_the_field() -> None:
    async def test() -> None:
        async with AppBench(StrictWorker).client() as client:
            reply = await post(client, {**LARGE, "top_k": 10**20})
            assert reply.status_code == 400
            assert error_of(reply)["param"] == "top_k"
            reply = await post(client, json.dumps(LARGE).encode()[:-1])
            assert reply.status_code == 400
            assert "JSON" in error_of(reply)["message"]

    asyncio.run(test())
