"""The embedded client against a server that is not this project's: what is sent, and what becomes of its errors."""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path
from typing import Any

import pytest
from trimode.core.errors import WorkerError
from trimode.pipeline.client.answer import Answer
from trimode.pipeline.client.chat import ChatClient, RetryPolicy
from trimode.pipeline.client.server_body import server_body
from trimode.pipeline.server.address import api_base
from trimode.pipeline.spec import ServerSpec
from trimode.tests.fakes.openai_server import Body, OpenAIServer, Reply, completion, failure
from trimode.tests.fakes.specs import client_spec, decode_spec

FAST = RetryPolicy(attempts=3, timeouts=1, refused_as_busy=9, first_delay_s=0.0)
SERVER = ServerSpec(url="http://h/v1", engine="x")


def ask(fake: OpenAIServer, prompts: list[str], server: ServerSpec | None = None, **client: Any) -> list[Answer]:
    async def run() -> list[Answer]:
        spec = client_spec(server=server or ServerSpec(url=api_base(fake.url), engine="x"), **client)
        async with ChatClient(fake.url, "tiny", decode_spec(), spec, FAST) as chat:
            return await asyncio.gather(*(chat.ask(f"name-{prompt}", prompt, 0) for prompt in prompts))

    return asyncio.run(run())


def test_only_standard_fields_are_sent() -> None:
    body = server_body(SERVER, decode_spec(eos_early_stop=False, max_thinking_tokens=9), "m", "p", 2**52 + 3)
    assert body == {
        "model": "m",
        "messages": [{"role": "user", "content": "p"}],
        "max_tokens": 256,
        "temperature": 0.0,
        "top_p": 0.95,
        "seed": 3,
        "chat_template_kwargs": {"enable_thinking": False},
    }


def test_further_fields_are_added_and_null_leaves_one_out() -> None:
    fields: dict[str, object] = {"top_k": 1, "chat_template_kwargs": None, "max_tokens": None}
    body = server_body(ServerSpec(url="", engine="x", fields=fields), decode_spec(), "m", "p", 0)
    assert body["top_k"] == 1
    assert not body.keys() & {"chat_template_kwargs", "max_tokens"}


def test_an_answer_has_tokens_and_time_and_no_nfe() -> None:
    with OpenAIServer() as fake:
        (got,) = ask(fake, ["say 7"])
    assert (got.error, got.text) == (None, "It is \\boxed{7}")
    assert (got.cost.completion_tokens, got.cost.nfe, got.cost.forwards) == (7, None, {})
    assert got.cost.total_s > 0


def test_a_usage_with_nfe_is_kept() -> None:
    def reply(body: Body) -> Reply:
        status, content, headers = completion(body)
        assert isinstance(content, dict)
        content["usage"] |= {"nfe": 3, "forwards": {"decode": 3}, "total_s": 0.5}
        return status, content, headers

    with OpenAIServer(reply) as fake:
        (got,) = ask(fake, ["say 7"])
    assert (got.cost.nfe, got.cost.forwards, got.cost.total_s) == (3, {"decode": 3}, 0.5)


def test_no_more_are_under_way_than_allowed() -> None:
    with OpenAIServer() as fake:
        answers = ask(fake, [f"say {n}" for n in range(12)], max_concurrent_requests=3)
    assert all(answer.error is None for answer in answers)
    assert fake.most_at_once <= 3


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (failure(401, "no"), "asks for an API key"),
        (failure(404, "no such model"), "lists"),
        ((308, "", {"location": "https://h2/v1"}), "leads to https://h2/v1"),
    ],
)
def test_what_every_request_would_get_ends_the_job(reply: Reply, words: str) -> None:
    with OpenAIServer(lambda _body: reply) as fake, pytest.raises(WorkerError, match=words):
        ask(fake, ["say 7"])
    assert len(fake.bodies) == 1


def test_a_prompt_that_is_too_long_is_final() -> None:
    said = "This model's maximum context length is 64 tokens. However, you requested 300 tokens"
    with OpenAIServer(lambda _body: failure(400, said)) as fake:
        (got,) = ask(fake, ["say 7"])
    assert got.error_kind == "request"
    assert got.error is not None
    assert got.error.startswith(f"HTTP 400: {said}")
    assert len(fake.bodies) == 1


@pytest.mark.parametrize("status", [402, 403])
def test_no_balance_or_right_is_asked_again_by_the_next_command(status: int) -> None:
    with OpenAIServer(lambda _body: failure(status, "insufficient")) as fake:
        (got,) = ask(fake, ["say 7"])
    assert (got.error_kind, len(fake.bodies)) == ("infrastructure", 1)


def test_too_many_requests_wait_as_long_as_the_server_says() -> None:
    begun: list[float] = []

    def reply(body: Body) -> Reply:
        begun.append(time.monotonic())
        return failure(429, "slow down", retry_after="0.3") if len(begun) == 1 else completion(body)

    with OpenAIServer(reply) as fake:
        (got,) = ask(fake, ["say 7"])
    assert got.error is None
    assert begun[1] - begun[0] >= 0.3


def test_a_rate_limit_uses_up_no_attempts_and_ends_at_last() -> None:
    def reply(body: Body) -> Reply:
        return failure(429, "slow down") if len(fake.bodies) < 8 else completion(body)

    with OpenAIServer(reply) as fake:
        (got,) = ask(fake, ["say 7"])
    assert (got.error, len(fake.bodies)) == (None, 8)
    with OpenAIServer(lambda _body: failure(429, "slow down")) as fake:
        (got,) = ask(fake, ["say 7"])
    assert got.error is not None
    assert got.error.startswith("HTTP 429: slow down; the server takes no more")
    assert len(fake.bodies) == FAST.refused_as_busy


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        ((200, "{broken", {}), "the body is no JSON"),
        ((200, {"choices": []}, {}), "it has no choices"),
        ((200, {"object": "list"}, {}), "not a chat completion"),
        ((200, [1], {}), "not a chat completion"),
        ((0, "", {}), "the connection to .* broke"),
        (failure(500, "out of memory"), "HTTP 500: out of memory"),
    ],
)
def test_a_broken_reply_is_tried_again_and_said(reply: Reply, words: str) -> None:
    with OpenAIServer(lambda _body: reply) as fake:
        (got,) = ask(fake, ["say 7"])
    assert got.error_kind == "infrastructure"
    assert len(fake.bodies) == FAST.attempts
    assert re.search(words, got.error or "")


def test_no_answer_in_time_is_said() -> None:
    def slow(body: Body) -> Reply:
        time.sleep(1.0)
        return completion(body)

    with OpenAIServer(slow) as fake:
        (got,) = ask(fake, ["say 7"], request_timeout_s=0.2)
    assert got.error is not None
    assert got.error.startswith("no answer within the request timeout (0.2 s")


def test_a_server_that_is_gone_is_said() -> None:
    with OpenAIServer() as fake:
        server = ServerSpec(url=api_base(fake.url), engine="x")
    (got,) = ask(fake, ["say 7"], server=server)
    assert got.error is not None
    assert got.error.startswith(f"no server answers at {server.url}")


def test_the_key_is_sent(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("sk-1\n")
    with OpenAIServer(key="sk-1") as fake:
        (got,) = ask(fake, ["say 7"], ServerSpec(url=api_base(fake.url), engine="x", api_key_file=str(file)))
    assert got.error is None
