"""Large bodies and replies are handled beside the event loop: other requests are answered meanwhile."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import threading
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from trimode.balancer.api import logprobs, replies, service
from trimode.balancer.api.body import read_json
from trimode.balancer.api.rendering import to_json, to_json_in_pieces
from trimode.balancer.api.vocabulary import TokenNames
from trimode.core.delta import OnDelta
from trimode.core.protocol import Generation
from trimode.tests.fakes.app import CHAT, COMPLETIONS, HELLO, AppBench, StrictWorker, error_of, post
from trimode.tests.fakes.worker import cost

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


def test_large_bodies_share_a_room_and_small_ones_need_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "MOST_LARGE_BYTES", 3 * service.LARGE_BODY_BYTES)
    gate = asyncio.Event()
    whole = json.dumps(LARGE).encode()

    async def slowly() -> AsyncIterator[bytes]:
        yield whole[: service.LARGE_BODY_BYTES]
        await gate.wait()
        yield whole[service.LARGE_BODY_BYTES :]

    async def test() -> None:
        bench = AppBench(StrictWorker)
        app = bench.app()

        async def send(body: AsyncIterator[bytes]) -> list[Any]:
            """Through the app itself: the client of the other tests collects a body before it sends it."""
            sent: list[Any] = []

            async def receive() -> dict[str, Any]:
                part = await anext(body, b"")
                if not part:
                    await asyncio.Event().wait()  # the client waits for its reply
                return {"type": "http.request", "body": part, "more_body": not part.endswith(b"}")}

            async def take(message: Any) -> None:
                sent.append(message)

            headers = [(b"content-type", b"application/json")]
            scope = {"type": "http", "method": "POST", "path": CHAT, "raw_path": CHAT.encode(), "headers": headers}
            await app({**scope, "query_string": b"", "root_path": "", "scheme": "http"}, receive, take)
            return sent

        held = [asyncio.create_task(send(slowly())) for _ in range(3)]
        while bench.service.large_bytes < 3 * service.LARGE_BODY_BYTES:
            await asyncio.sleep(0)
        refused = (await send(slowly()))[0]
        assert refused["status"] == 429
        assert (b"retry-after", b"1") in refused["headers"]
        async with bench.client() as client:
            assert (await post(client, {"messages": HELLO})).status_code == 200
            held[0].cancel()  # its client left: what it held is free
            await asyncio.wait(held[:1])
            assert (await post(client, json.dumps({"messages": HELLO, "padding": "x" * 65000}).encode())).is_success
        gate.set()
        for task in held[1:]:
            assert (await task)[0]["status"] in (200, 429)  # two of them have no room for their ends together
        assert bench.service.large_bytes == 0

    asyncio.run(test())


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


def test_the_server_answers_while_a_large_reply_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()
    in_time: list[bool] = []

    def name_slowly(prompt: logprobs.Rated, names: TokenNames) -> list[dict[str, Any] | None]:
        in_time.append(answered.wait(5))
        return logprobs.prompt_logprobs(prompt, names)

    class Rating(StrictWorker):
        async def generate(self, fields: Mapping[str, Any], on_delta: OnDelta | None = None) -> Generation:
            found = await super().generate(fields, on_delta)
            size = len(fields.get("prompt_ids", ()))
            rated = {"prompt_token_ids": [1] * size, "prompt_logprobs": [-1.0] * (size - 1)}
            return dataclasses.replace(found, cost=cost(prompt_tokens=size), **rated)

    monkeypatch.setattr(replies, "prompt_logprobs", name_slowly)

    async def test() -> None:
        body = {"prompt": [1] * service.LARGE_REPLY_TOKENS, "prompt_logprobs": 0}
        async with AppBench(Rating).client() as client:
            large = asyncio.create_task(post(client, body, COMPLETIONS))
            await asyncio.sleep(0.1)
            assert (await post(client, {"messages": HELLO})).status_code == 200
            answered.set()
            choice = (await large).json()["choices"][0]
        assert len(choice["prompt_logprobs"]) == service.LARGE_REPLY_TOKENS

    asyncio.run(test())
    assert in_time == [True]


@pytest.mark.parametrize(
    "value",
    [
        {},
        [],
        [1],
        {"a": []},
        {"choices": [{"text": "x", "logprobs": {"tokens": ["a"] * 700, "top": [{"b": 1.5}, None] * 300}}] * 2},
        {"prompt_logprobs": [None, *({str(number): {"rank": number}} for number in range(600))], "b": {"c": {"d": {}}}},
        [[[[[[[1, 2], [3]]]]]]],
    ],
)
def test_json_in_pieces_is_json(value: object) -> None:
    assert to_json_in_pieces(value) == to_json(value) == json.dumps(value, separators=(",", ":"))
