"""One request never costs more than itself: whatever the body holds, it is refused by name and nothing else is lost."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from trimode.tests.fakes.app import CHAT, COMPLETIONS, HELLO, AppBench, StrictWorker, error_of, post

HALF = "\ud83d"


def run(test: Callable[[AppBench, httpx.AsyncClient], Awaitable[None]], **settings: Any) -> AppBench:
    """Runs a test over two strict workers; none of them may die."""
    bench = AppBench(StrictWorker, **settings)

    async def body() -> None:
        async with bench.client() as client:
            await test(bench, client)

    asyncio.run(body())
    assert bench.deaths == []
    return bench


def refused(body: object, param: str | None, path: str = CHAT) -> str:
    """Sends a body that must be refused with 400 before a worker sees it. Returns the message."""
    messages: list[str] = []

    async def test(bench: AppBench, client: httpx.AsyncClient) -> None:
        response = await post(client, body, path)
        assert response.status_code == 400, response.text[:500]
        error = error_of(response)
        assert error["type"] == "invalid_request_error"
        assert error["param"] == param
        messages.append(error["message"])
        assert not any(worker.fields for worker in bench.workers if isinstance(worker, StrictWorker))
        assert (await post(client, {"messages": HELLO})).status_code == 200

    run(test)
    return messages[0]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"stop": HALF}, "stop"),
        ({"stop": ["a", "b" + HALF]}, "stop"),
        ({"request_id": "a" + HALF}, "request_id"),
        ({"mode": HALF}, "mode"),
        ({"acceptance": HALF}, "acceptance"),
        ({"model": HALF}, "model"),
        ({"user": HALF}, "user"),
        ({"metadata": {"a": {HALF: 1}}}, "metadata"),
        ({"chat_template_kwargs": {HALF: True}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"enable_thinking": HALF}}, "chat_template_kwargs"),
        ({HALF: 1}, '"\\ud83d"'),
        ({"messages": [{"role": "user", "content": HALF}]}, "messages[0].content"),
        ({"messages": [*HELLO, {"role": "user", "content": [{"type": "text", "text": HALF}]}]}, None),
        ({"messages": [{"role": HALF, "content": "x"}]}, "messages[0].role"),
    ],
)
def test_half_a_surrogate_pair_is_refused_wherever_it_stands(fields: dict[str, Any], param: str | None) -> None:
    if param is None:
        param = "messages[1].content[0].text"
    assert "half a surrogate pair" in refused({"messages": HELLO, **fields}, param)


def test_whole_pairs_pass() -> None:
    async def test(_: AppBench, client: httpx.AsyncClient) -> None:
        body = {
            "messages": [{"role": "user", "content": "\U0001f600"}],
            "stop": "\U0001f600",
            "request_id": "\U0001f600",
        }
        response = await post(client, body)
        assert response.status_code == 200
        assert response.json()["id"] == "chatcmpl-\U0001f600"

    run(test)


@pytest.mark.parametrize("name", ["top_k", "seed", "block_length", "max_thinking_tokens", "end_think_token_id"])
@pytest.mark.parametrize("digits", [20, 400])
def test_huge_integers_are_refused(name: str, digits: int) -> None:
    message = refused({"messages": HELLO, "temperature": 1, name: 10 ** (digits - 1) * 9}, name)
    assert message.startswith(f"{name}: got ")
    assert len(message) < 200


@pytest.mark.parametrize("name", ["temperature", "top_p", "min_p", "threshold", "repetition_penalty"])
@pytest.mark.parametrize("value", [1e20, 10**20, 10**400])
def test_huge_numbers_are_refused(name: str, value: float) -> None:
    refused({"messages": HELLO, name: value}, name)


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "n", "top_k"])
@pytest.mark.parametrize("value", [1e20, 10**400, 2.5, True, "3", [3]])
def test_what_is_no_count_is_refused(name: str, value: object) -> None:
    refused({"messages": HELLO, name: value}, name)


@pytest.mark.parametrize(
    "fields",
    [
        {"stream": 1},
        {"stream": 0},
        {"stream": 1.0},
        {"stream": True, "stream_options": {"include_usage": 1}},
        {"stream": True, "stream_options": {"include_usage": 0.0}},
        {"stream": True, "prompt_logprobs": 0},
        {"stream_options": 0},
        {"stream_options": ""},
        {"stream_events": 0},
        {"best_of": True},
        {"min_tokens": False},
        {"use_beam_search": 0},
        {"ignore_eos": 1},
        {"lora": 0},
        {"enable_thinking": 1},
        {"chat_template_kwargs": {"enable_thinking": 1}},
        {"logprobs": 1},
        {"echo": 0},
        {"return_token_ids": 1},
        {"return_tokens_as_token_ids": 0},
        {"separate_reasoning": 0},
        {"logprobs": True, "top_logprobs": True},
        {"prompt_logprobs": True},
    ],
    ids=json.dumps,
)
def test_a_number_is_no_boolean_and_a_boolean_no_number(fields: dict[str, Any]) -> None:
    async def test(bench: AppBench, client: httpx.AsyncClient) -> None:
        response = await post(client, {"messages": HELLO, **fields})
        assert response.status_code == 400, response.text[:500]
        # the last field is the wrong one, except that a stream cannot show what the one after it asks for
        assert str(error_of(response)["param"]).partition(".")[0] in fields
        assert not any(worker.fields for worker in bench.workers if isinstance(worker, StrictWorker))

    run(test)


@pytest.mark.parametrize("fields", [{"add_generation_prompt": 1}, {"continue_final_message": 0}], ids=json.dumps)
def test_a_number_is_no_boolean_for_the_tokenizer(fields: dict[str, Any]) -> None:
    async def test(_: AppBench, client: httpx.AsyncClient) -> None:
        response = await post(client, {"messages": HELLO, **fields}, "/tokenize")
        assert response.status_code == 400, response.text[:500]
        assert error_of(response)["param"] in fields

    run(test)


@pytest.mark.parametrize("where", ["stop_token_ids", "logprobs", "messages", "request_id", "model", "stream", "stop"])
def test_a_huge_integer_where_none_belongs_is_refused(where: str) -> None:
    async def test(_: AppBench, client: httpx.AsyncClient) -> None:
        for value in (10**400, [10**400]):
            response = await post(client, {"messages": HELLO, where: value})
            assert response.status_code in (400, 404)
            assert str(error_of(response)["param"]).startswith(where)

    run(test)


def test_integers_may_be_written_as_floats_everywhere() -> None:
    async def test(bench: AppBench, client: httpx.AsyncClient) -> None:
        fields = {"n": 3.0, "seed": 3.0, "max_tokens": 3.0, "top_k": 5.0, "block_length": 1.0, "stop_token_ids": [7.0]}
        reply = (await post(client, {"messages": HELLO, **fields})).json()
        assert [choice["message"]["content"] for choice in reply["choices"]] == ["seed 3", "seed 4", "seed 5"]
        seen = [fields for worker in bench.workers if isinstance(worker, StrictWorker) for fields in worker.fields]
        assert {type(fields["max_new_tokens"]) for fields in seen} == {int}
        reply = (await post(client, {"prompt": [1.0, 2.0]}, COMPLETIONS)).json()
        assert reply["object"] == "text_completion"

    run(test)


def test_the_seeds_of_n_replies_stay_in_range() -> None:
    assert "count up" in refused({"messages": HELLO, "n": 2, "seed": 2**63 - 1}, "seed")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "got nothing"),
        (b" \n", "got nothing"),
        (b"\xff\xfe{\x00}\x00", "not UTF-8"),
        (b'{"prompt": "\xed\xa0\xbd"}', "not UTF-8"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'{"temperature": NaN}', "got NaN"),
        (b'{"user": [-Infinity]}', "got -Infinity"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "too many digits"),
        (b'{"temperature": 0, "temperature": 1}', 'got "temperature" twice'),
        (b'{"messages": [{"role": "user", "role": "system"}]}', 'got "role" twice'),
        (b"a=1&b=2", "not valid JSON"),
        (b"null", "got null"),
    ],
)
def test_what_is_no_plain_json_object_is_refused(body: bytes, words: str) -> None:
    assert words in refused(body, None)


def test_a_byte_order_mark_passes_and_no_content_type_but_json() -> None:
    async def test(_: AppBench, client: httpx.AsyncClient) -> None:
        content = b"\xef\xbb\xbf" + json.dumps({"messages": HELLO}).encode()
        for content_type in ("application/json", "Application/JSON; charset=utf-8"):
            response = await client.post(CHAT, content=content, headers={"content-type": content_type})
            assert response.status_code == 200
        for kind in ("text/plain", "multipart/form-data", "application/x-www-form-urlencoded", "nonsense", None):
            headers = {} if kind is None else {"content-type": kind}
            response = await client.post(CHAT, content=content, headers=headers)
            assert response.status_code == 415
            assert error_of(response)["message"].endswith("valid: application/json")

    run(test)


def test_nested_values_up_to_the_parsers_depth_do_no_harm() -> None:
    async def test(_: AppBench, client: httpx.AsyncClient) -> None:
        for depth in (100, 800, 900, 980):
            nested = "[" * depth + '"\\ud83d\\ude00"' + "]" * depth
            for name in ("model", "stop", "user", "tools", "unknown", "request_id", "n", "messages", "response_format"):
                body = f'{{"{name}": {nested}, "messages_": 1}}'.encode()
                response = await post(client, body)
                assert 400 <= response.status_code < 500
                error_of(response)

    run(test)


def test_many_unknown_fields_are_refused_at_once() -> None:
    fields = {f"unknown_field_{index}": index for index in range(20_000)}
    message = refused({"messages": HELLO, **fields}, None)
    assert message == "the body: got 20000 unknown fields; valid: at most 64"


def test_the_header_of_ignored_fields_is_bounded() -> None:
    async def test(_: AppBench, client: httpx.AsyncClient) -> None:
        fields = {f"{index:02d}{'x' * 100_000}": index for index in range(64)}
        response = await post(client, {"messages": HELLO, **fields})
        assert response.status_code == 200
        header = response.headers["x-trimode-ignored-fields"]
        assert len(header) < 2100
        assert header.endswith(",and 40 more")

    run(test)


@pytest.mark.parametrize(
    ("body", "path", "param"),
    [
        ({"messages": [{"role": "user", "content": "word " * 600_000}]}, CHAT, "messages"),
        ({"messages": [{"role": "user", "content": "x" * 15_000_000}]}, CHAT, "messages"),
        ({"messages": [{"role": "user", "content": "x" * 40_000}] * 2}, CHAT, "messages"),
        ({"messages": [{"role": "user", "content": "x"}] * 100_000}, CHAT, "messages"),
        ({"prompt": "x" * 3_000_000}, COMPLETIONS, "prompt"),
        ({"prompt": [1] * 50_000}, COMPLETIONS, "prompt"),
        ({"prompt": [256]}, COMPLETIONS, "prompt"),
    ],
)
def test_a_prompt_that_no_context_holds_is_refused_before_a_worker_sees_it(body: object, path: str, param: str) -> None:
    message = refused(body, param, path)
    assert "valid: " in message or "This model's maximum context length is 4096 tokens" in message


def test_a_body_of_millions_of_values_is_not_even_parsed() -> None:
    assert "commas and brackets" in refused(b'{"user": [' + b"{}," * 3_000_000 + b"{}]}", None)


def test_more_replies_than_ever_fit_are_a_400() -> None:
    async def test(_: AppBench, client: httpx.AsyncClient) -> None:
        response = await post(client, {"messages": HELLO, "n": 15})
        assert response.status_code == 400
        assert error_of(response)["param"] == "n"
        assert "at most 14" in error_of(response)["message"]
        assert (await post(client, {"messages": HELLO, "n": 14})).status_code == 200

    run(test, max_queue=4)


def test_a_request_that_kills_workers_fails_alone() -> None:
    """Three deaths per request, and every other request is answered, however many such requests come."""

    async def test() -> None:
        bench = AppBench(StrictWorker, num_workers=1)
        crash = [{"role": "user", "content": "crash"}]
        async with bench.client() as client:
            bodies = [{"messages": crash if index % 4 == 0 else HELLO} for index in range(40)]
            replies = await asyncio.gather(*(post(client, body) for body in bodies))
            for index, reply in enumerate(replies):
                assert reply.status_code == (500 if index % 4 == 0 else 200), reply.text
                if index % 4 == 0:
                    assert "3 attempts" in error_of(reply)["message"]
        assert bench.router.slots[0].deaths_in_a_row == 0

    asyncio.run(test())


def test_a_defect_of_the_server_is_an_openai_error_too() -> None:
    async def test(bench: AppBench, client: httpx.AsyncClient) -> None:
        bench.service.infos = lambda: 1 / 0  # type: ignore[assignment, return-value]
        response = await post(client, b"{}")
        assert response.status_code == 500
        assert error_of(response)["type"] == "server_error"
        bench.service.infos = lambda: [bench.workers[0].info()]

    run(test)


def test_a_client_cannot_say_where_an_answer_goes_on() -> None:
    assert "does not offer" in refused({"messages": HELLO, "continuation": {"token_ids": [1]}}, "continuation")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": [[1] * 4000] * 13, "prompt_logprobs": 20}, "prompt_logprobs"),
        ({"prompt": [1] * 4000, "n": 128, "echo": True, "logprobs": 2}, "logprobs"),
        ({"prompt": ["four" * 4000] * 128, "prompt_logprobs": 2}, "prompt_logprobs"),
    ],
)
def test_a_reply_with_too_many_log_probabilities_is_refused(fields: dict[str, Any], param: str) -> None:
    assert "log-probabilities of prompt tokens" in refused(fields, param, COMPLETIONS)
