"""Answers in parts, over the app in this process: the shape of the chunks, errors, and clients that leave."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from trimode.balancer.api import chunks
from trimode.core.delta import Delta, OnDelta
from trimode.core.errors import GenerationError
from trimode.core.protocol import Generation
from trimode.core.worker import Worker
from trimode.tests.fakes.app import CHAT, COMPLETIONS, HELLO, AppBench, error_of, post
from trimode.tests.fakes.events import read_events
from trimode.tests.fakes.worker import PlainWorker, cost, generation

WORDS = ("Hal", "lo ", "", "W€lt")


class WordWorker(PlainWorker):
    """Says four words; `script` does something before the word of that number."""

    def __init__(self, script: Callable[[int], Exception | asyncio.Future[None] | None] = lambda _: None) -> None:
        super().__init__()
        self.script = script

    async def generate(self, fields: Mapping[str, Any], on_delta: OnDelta | None = None) -> Generation:
        self.fields.append(fields)
        for number, word in enumerate(WORDS):
            found = self.script(number)
            if isinstance(found, Exception):
                raise found
            if found is not None:
                await found
            await asyncio.sleep(0)
            if on_delta is not None:
                logprobs = [-0.5] if fields["logprobs"] else None
                passes = [{"mode": "ar", "block": number, "pass": 1, "start": number, "tokens": []}]
                shown = passes if fields.get("stream_events") else []
                tops = [[(number, -0.5)]] if fields.get("top_logprobs") else None
                on_delta(Delta(token_ids=[number], logprobs=logprobs, tops=tops, text=word, passes=shown))
        return generation(
            request_id=str(fields["request_id"]),
            token_ids=list(range(4)),
            text="".join(WORDS),
            cost=cost(completion_tokens=4, nfe=2),
            logprobs=[-0.5] * 4 if fields["logprobs"] else None,
        )


def ask(worker: Worker, body: Mapping[str, Any], path: str = CHAT, num_workers: int = 1) -> httpx.Response:
    async def send() -> httpx.Response:
        async with AppBench(lambda: worker, num_workers=num_workers).client() as client:
            return await post(client, {"stream": True, **body}, path)

    return asyncio.run(send())


def test_a_chat_begins_with_the_role_and_ends_with_the_reason() -> None:
    reply = ask(WordWorker(), {"messages": HELLO, "request_id": "me"})
    assert reply.status_code == 200
    assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert reply.headers["x-request-id"] == "me"
    events = read_events(reply.text)
    deltas = [chunk["choices"][0]["delta"] for chunk in events.chunks]
    assert deltas == [{"role": "assistant", "content": ""}, *({"content": w} for w in WORDS if w), {}]
    assert events.finish_reasons() == ["stop"]
    assert {chunk["object"] for chunk in events.chunks} == {"chat.completion.chunk"}
    assert {chunk["id"] for chunk in events.chunks} == {"chatcmpl-me"}
    assert "usage" not in events.chunks[-1]
    assert events.chunks[-1]["trimode"]["nfe"] == 2
    assert not any("trimode" in chunk for chunk in events.chunks[:-1])


def test_a_completion_has_text() -> None:
    events = read_events(ask(WordWorker(), {"prompt": "hello"}, COMPLETIONS).text)
    assert events.text() == "Hallo W€lt"
    assert {chunk["object"] for chunk in events.chunks} == {"text_completion"}
    assert events.chunks[0]["choices"][0]["text"] == "Hal"


def test_the_usage_comes_last_and_is_that_of_a_whole_reply() -> None:
    body = {"messages": HELLO, "stream_options": {"include_usage": True}}
    events = read_events(ask(WordWorker(), body).text)
    last = events.chunks[-1]
    assert last["choices"] == []
    whole = ask(WordWorker(), {"messages": HELLO, "stream": False}).json()["usage"]
    seconds = ("queue_s", "first_token_s", "total_s")
    assert {k: v for k, v in last["usage"].items() if k not in seconds} == {
        k: v for k, v in whole.items() if k not in seconds
    }
    assert last["trimode"] == {name: last["usage"][name] for name in last["trimode"]}
    assert set(last["trimode"]) >= {"nfe", "tpf", "forwards", "acceptance_lengths", *seconds}
    assert not any("trimode" in chunk for chunk in events.chunks[:-1])


def test_n_answers_come_side_by_side() -> None:
    events = read_events(ask(WordWorker(), {"messages": HELLO, "n": 3}).text)
    assert [events.text(index) for index in range(3)] == ["Hallo W€lt"] * 3
    assert events.finish_reasons() == ["stop"] * 3
    assert [choice["index"] for choice in events.chunks[0]["choices"]] == [0, 1, 2]
    assert events.chunks[-1]["trimode"]["nfe"] == 6


def test_logprobs_and_ids_come_with_the_tokens() -> None:
    body = {"messages": HELLO, "logprobs": True, "return_token_ids": True}
    choices = [chunk["choices"][0] for chunk in read_events(ask(WordWorker(), body).text).chunks]
    assert [choice["token_ids"] for choice in choices if "token_ids" in choice] == [[0], [1], [2], [3]]
    names = [entry["token"] for choice in choices if choice["logprobs"] for entry in choice["logprobs"]["content"]]
    assert names == [chr(number) for number in range(4)]


def test_alternatives_and_offsets_come_with_the_tokens() -> None:
    body = {"prompt": "hello", "logprobs": 1}
    choices = [chunk["choices"][0] for chunk in read_events(ask(WordWorker(), body, COMPLETIONS).text).chunks]
    rated = [choice["logprobs"] for choice in choices if choice["logprobs"]]
    assert [part["text_offset"] for part in rated] == [[0], [1], [2], [3]]
    assert all(set(part["top_logprobs"][0]) == set(part["tokens"]) for part in rated)


def test_an_echo_stands_before_the_answers() -> None:
    body = {"prompt": ["one", "two"], "echo": True, "n": 2}
    events = read_events(ask(WordWorker(), body, COMPLETIONS).text)
    texts = ["", "", "", ""]
    for chunk in events.chunks:
        for choice in chunk["choices"]:
            texts[choice["index"]] += choice["text"]
    assert [text[:3] for text in texts] == ["one", "one", "two", "two"]
    assert len({text[3:] for text in texts}) == 1


@pytest.mark.parametrize("more", [{"prompt_logprobs": 1}, {"echo": True, "logprobs": 1}])
def test_the_prompts_log_probabilities_are_not_streamed(more: dict[str, Any]) -> None:
    refused = ask(WordWorker(), {"prompt": "a", **more}, COMPLETIONS)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "stream")


def test_thoughts_come_apart_from_the_answer() -> None:
    body = {"messages": HELLO, "enable_thinking": True}
    events = read_events(ask(WordWorker(), body).text)
    deltas = [choice["delta"] for chunk in events.chunks for choice in chunk["choices"]]
    thoughts = "".join(delta.get("reasoning_content", "") for delta in deltas)
    assert thoughts
    assert "".join(delta.get("content", "") for delta in deltas) == ""  # the words hold no end of thinking


def test_denoise_events_stand_before_the_text_of_their_pass() -> None:
    events = read_events(ask(WordWorker(), {"messages": HELLO, "stream_events": "denoise", "request_id": "me"}).text)
    assert events.order[:4] == ["chunk", "denoise", "chunk", "denoise"]
    assert events.denoise[1] == {
        "request_id": "chatcmpl-me",
        "index": 0,
        "mode": "ar",
        "block": 1,
        "pass": 1,
        "start": 1,
        "tokens": [],
    }
    worker = WordWorker()
    assert read_events(ask(worker, {"messages": HELLO}).text).denoise == []
    assert "stream_events" not in worker.fields[0]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"stream": "yes"}, "stream"),
        ({"stream": False, "stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": False, "stream_events": "denoise"}, "stream_events"),
        ({"stream_events": "all"}, "stream_events"),
        ({"stream_options": []}, None),
        ({"stream_options": 7}, "stream_options"),
        ({"stream_options": {"include_usage": "yes"}}, "stream_options.include_usage"),
    ],
)
def test_wrong_fields_are_refused(fields: dict[str, Any], param: str | None) -> None:
    reply = ask(WordWorker(), {"messages": HELLO, **fields})
    assert reply.status_code == 400
    assert param is None or error_of(reply)["param"] == param


def test_an_error_before_the_first_part_has_its_status() -> None:
    reply = ask(WordWorker(lambda _: GenerationError("top_k: got -7; valid: -1 or more")), {"messages": HELLO})
    assert reply.status_code == 400
    assert error_of(reply)["param"] == "top_k"


def test_a_later_error_ends_the_stream() -> None:
    def script(number: int) -> Exception | None:
        return GenerationError("generation failed: no memory", 500) if number == 2 else None

    events = read_events(ask(WordWorker(script), {"messages": HELLO}).text)
    assert events.text() == "Hallo "
    assert set(events.chunks[-1]) == {"error"}
    assert events.chunks[-1]["error"] == {
        "message": "generation failed: no memory",
        "type": "server_error",
        "param": None,
        "code": None,
    }


def test_a_defect_ends_the_stream_without_details() -> None:
    async def send() -> httpx.Response:
        bench = AppBench(WordWorker, num_workers=1)
        bench.service.totals = {"secret": 0}
        async with bench.client() as client:
            return await post(client, {"stream": True, "messages": HELLO})

    events = read_events(asyncio.run(send()).text)
    assert events.text() == "Hallo W€lt"
    assert "secret" not in json.dumps(events.chunks[-1])
    assert events.chunks[-1]["error"]["type"] == "server_error"


def test_a_request_log_that_cannot_be_written_costs_no_reply(caplog: pytest.LogCaptureFixture) -> None:
    async def send(body: Mapping[str, Any]) -> httpx.Response:
        bench = AppBench(WordWorker, num_workers=1)
        bench.service.request_log = Path("/dev/full")
        async with bench.client() as client:
            return await post(client, body)

    assert asyncio.run(send({"messages": HELLO})).status_code == 200
    assert read_events(asyncio.run(send({"stream": True, "messages": HELLO})).text).finish_reasons() == ["stop"]
    assert "/dev/full cannot be written" in caplog.text


def test_a_client_that_leaves_ends_its_generation() -> None:
    async def test() -> None:
        worker = WordWorker(lambda n: asyncio.get_running_loop().create_future() if n == 2 else None)
        bench = AppBench(lambda: worker, num_workers=1)
        app = bench.app()
        left: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        body = json.dumps({"messages": HELLO, "stream": True}).encode()
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            nonlocal body
            if body:
                message = {"type": "http.request", "body": body, "more_body": False}
                body = b""
                return message
            await left
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)
            if b"lo " in message.get("body", b""):
                left.set_result(None)

        scope = {"type": "http", "method": "POST", "path": CHAT, "query_string": b""}
        scope["headers"] = [(b"content-type", b"application/json")]
        await app(scope, receive, send)
        for _ in range(10):
            await asyncio.sleep(0)
        assert worker.cancelled == [worker.fields[0]["request_id"]]
        assert bench.router.cancelled == 1

    asyncio.run(test())


def test_a_client_that_reads_too_slowly_loses_its_answer_and_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "MAX_WAITING_CHARACTERS", 600)  # the role and one word, but not two more

    async def test() -> None:
        worker = WordWorker()
        bench = AppBench(lambda: worker, num_workers=1)
        read_on: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        asked = [json.dumps({"messages": HELLO, "stream": True}).encode()]
        sent = b""

        async def receive() -> dict[str, Any]:
            if asked:
                return {"type": "http.request", "body": asked.pop(), "more_body": False}
            await asyncio.get_running_loop().create_future()
            raise AssertionError

        async def send(message: dict[str, Any]) -> None:
            nonlocal sent
            sent += message.get("body", b"")
            await read_on  # the client reads nothing yet

        scope = {"type": "http", "method": "POST", "path": CHAT, "query_string": b""}
        scope["headers"] = [(b"content-type", b"application/json")]
        reply = asyncio.ensure_future(bench.app()(scope, receive, send))
        while not worker.cancelled or bench.router.num_running:
            await asyncio.sleep(0)
        read_on.set_result(None)
        await reply
        assert "reads too slowly" in read_events(sent.decode()).chunks[-1]["error"]["message"]
        assert bench.deaths == []

    asyncio.run(test())
