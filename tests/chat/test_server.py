"""A chat through a running server: what is sent, streams whole and broken, errors in words."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

import pytest
from trimode.chat.answer import Reply
from trimode.chat.server import ServedModel
from trimode.chat.settings import Settings
from trimode.chat.talk import conversation
from trimode.core.errors import GenerationError, TrimodeError, WorkerError
from trimode.pipeline.server.address import api_base
from trimode.pipeline.spec import ServerSpec
from trimode.tests.fakes.openai_server import OpenAIServer, failure
from trimode.tests.fakes.openai_server import Reply as Sent

MESSAGES = [{"role": "user", "content": "hi"}]
USAGE = {"usage": {"prompt_tokens": 1, "completion_tokens": 4}, "choices": []}
COST = {"nfe": 2, "acceptance_lengths": [1, 3], "queue_s": 0.5, "first_token_s": 0.75, "total_s": 2.5}


def events(*chunks: object, done: bool = True) -> Sent:
    lines = [
        f"data: {chunk if isinstance(chunk, str) else json.dumps(chunk, ensure_ascii=False)}\n\n" for chunk in chunks
    ]
    return 200, "".join(lines) + ("data: [DONE]\n\n" if done else ""), {"content-type": "text/event-stream"}


def delta(**fields: object) -> dict[str, object]:
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": None}]}


def end(reason: str) -> dict[str, object]:
    return {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}


def ask(fake: OpenAIServer, settings: Settings | None = None) -> tuple[list[str], Reply]:
    async def run() -> list[str | Reply]:
        model = ServedModel(ServerSpec(url=api_base(fake.url), engine="x"), "")
        return [part async for part in model.answer(MESSAGES, settings or Settings())]

    *parts, reply = asyncio.run(run())
    assert isinstance(reply, Reply)
    return [part for part in parts if isinstance(part, str)], reply


def test_parts_come_as_they_are_sent_and_the_cost_at_last() -> None:
    chunks = (delta(role="assistant", content=""), delta(content="Hi\u2028"), delta(content="\x85there"), end("length"))
    with OpenAIServer(lambda _body: events(*chunks, USAGE | {"trimode": COST})) as fake:
        parts, reply = ask(fake, Settings(temperature=0.5, seed=3, max_new_tokens=7))
    assert parts == ["Hi\u2028", "\x85there"]
    assert (reply.text, reply.finish_reason) == ("Hi\u2028\x85there", "length")
    assert (reply.stats.tokens, reply.stats.nfe, reply.stats.seconds) == (4, 2, 2.0)
    assert reply.stats.first_token_s == 0.25, "both times are the server's and without its queue"
    assert reply.stats.acceptance_lengths == (1, 3)
    (body,) = fake.bodies
    assert {key: body[key] for key in ("max_tokens", "temperature", "seed", "stream")} == {
        "max_tokens": 7,
        "temperature": 0.5,
        "seed": 3,
        "stream": True,
    }


def test_a_server_without_modes_gets_standard_fields_and_shows_no_nfe() -> None:
    with OpenAIServer(lambda _body: events(delta(content="Hi"), end("stop"), USAGE)) as fake:
        _, reply = ask(fake, Settings(top_k=3))
        assert set(fake.bodies[0]) == {"model", "messages", "max_tokens", "stream", "stream_options", "temperature"}
        ask(fake, Settings(thinking=True))
        assert fake.bodies[1]["chat_template_kwargs"] == {"enable_thinking": True}
    assert (reply.stats.nfe, reply.stats.tokens) == (None, 4)


def test_a_server_of_this_project_gets_the_mode() -> None:
    def listed() -> Sent:
        return 200, {"data": [{"id": "tiny", "modes": ["ar", "dlm", "linear_spec"], "lora": True}]}, {}

    with OpenAIServer(lambda _body: events(delta(content="Hi"), end("stop")), listed=listed, strict=False) as fake:
        model = ServedModel(ServerSpec(url=api_base(fake.url), engine="x"), "")
        assert model.modes == ("ar", "dlm", "linear_spec", "linear_spec_lora")
        ask(fake, Settings(mode="linear_spec_lora", block_length=8))
    body = fake.bodies[0]
    assert (body["mode"], body["lora"], body["block_length"]) == ("linear_spec", True, 8)


def test_thoughts_that_a_server_splits_off_are_shown_and_not_kept() -> None:
    with OpenAIServer(lambda _body: events(delta(reasoning_content="hm"), delta(content="Hi"), end("stop"))) as fake:
        parts, reply = ask(fake)
    assert (parts, reply.text) == (["hm", "Hi"], "Hi")


@pytest.mark.parametrize(
    ("sent", "kind", "words"),
    [
        (failure(400, "maximum context length is 64"), GenerationError, "HTTP 400: maximum context length is 64"),
        (failure(401, "no"), GenerationError, "asks for an API key"),
        (failure(500, "boom"), GenerationError, "HTTP 500: boom"),
        (events(delta(content="Hi"), {"error": {"message": "worker died"}}), GenerationError, "worker died"),
        (events(delta(content="Hi"), "{broken"), WorkerError, "no JSON"),
        (events(delta(content="Hi"), "[1]"), WorkerError, "no object"),
        (events(delta(content="Hi"), done=False), WorkerError, r"ended before \[DONE\]"),
        ((200, "", {}), WorkerError, "ended before"),
        ((0, "", {}), WorkerError, "broke"),
    ],
)
def test_what_goes_wrong_is_said(sent: Sent, kind: type[TrimodeError], words: str) -> None:
    with OpenAIServer(lambda _body: sent) as fake, pytest.raises(kind, match=words):
        ask(fake)


def test_chunks_of_other_shapes_are_left_out() -> None:
    odd: Sequence[object] = ({"choices": None}, {"choices": [1]}, {"choices": [{"delta": None}]}, {"usage": None})
    with OpenAIServer(lambda _body: events(*odd, delta(content="Hi"), end("stop"))) as fake:
        parts, reply = ask(fake)
    assert (parts, reply.text, reply.stats.tokens) == (["Hi"], "Hi", None)


@pytest.mark.parametrize(("modes", "words"), [([], "names no modes"), (["ar"], "valid: ar")])
def test_a_mode_that_a_server_does_not_have_is_refused(
    modes: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def listed() -> Sent:
        return 200, {"data": [{"id": "tiny", "modes": modes}]}, {}

    with OpenAIServer(listed=listed) as fake:
        assert conversation(["--server", fake.url, "--mode", "dlm"], "chat.py") == 2
    assert words in capsys.readouterr().err
