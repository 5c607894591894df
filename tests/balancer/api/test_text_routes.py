"""Models, version, tokens: the small routes, and what unknown ones get."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import httpx
import pytest
from trimode.balancer.api import service
from trimode.core.errors import WorkerError
from trimode.tests.fakes.app import CHAT, COMPLETIONS, HELLO, AppBench, StrictWorker, error_of, post


def run(test: Callable[[httpx.AsyncClient], Awaitable[None]]) -> None:
    async def with_bench() -> None:
        async with AppBench(StrictWorker).client() as client:
            await test(client)

    asyncio.run(with_bench())


def test_a_model_is_found_by_its_name() -> None:
    async def test(client: httpx.AsyncClient) -> None:
        listed = (await client.get("/v1/models")).json()["data"][0]
        assert (await client.get("/v1/models/fake")).json() == listed
        missing = await client.get("/v1/models/owner/other")
        assert (missing.status_code, error_of(missing)["code"]) == (404, "model_not_found")

    run(test)


def test_the_version_is_told() -> None:
    async def test(client: httpx.AsyncClient) -> None:
        assert set((await client.get("/version")).json()) == {"version"}

    run(test)


@pytest.mark.parametrize("start", ["", "/v1"])
def test_text_becomes_tokens_and_text_again(start: str) -> None:
    async def test(client: httpx.AsyncClient) -> None:
        found = (await post(client, {"prompt": "abc", "return_token_strs": True}, f"{start}/tokenize")).json()
        assert found == {"count": 3, "max_model_len": 4096, "tokens": [97, 98, 99], "token_strs": ["a", "b", "c"]}
        back = await post(client, {"model": "fake", "tokens": found["tokens"]}, f"{start}/detokenize")
        assert back.json() == {"prompt": "abc"}

    run(test)


def test_messages_become_tokens_and_an_empty_text_none() -> None:
    async def test(client: httpx.AsyncClient) -> None:
        asked = {"messages": HELLO, "add_generation_prompt": True, "chat_template_kwargs": {"enable_thinking": False}}
        assert (await post(client, asked, "/tokenize")).json()["count"] == 5
        assert (await post(client, {"prompt": ""}, "/tokenize")).json()["tokens"] == []

    run(test)


def test_the_tokenizer_says_what_it_is() -> None:
    async def test(client: httpx.AsyncClient) -> None:
        info = (await client.get("/tokenizer_info")).json()
        assert (await client.get("/v1/tokenizer_info")).json() == info
        assert (info["tokenizer_class"], info["eos_token"], info["model_max_length"]) == ("Fake", "<end>", 4096)

    run(test)


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "a", "messages": HELLO}, "prompt"),
        ("/tokenize", {"prompt": ["a"]}, "prompt"),
        ("/tokenize", {"messages": []}, "messages"),
        ("/tokenize", {"messages": HELLO, "add_generation_prompt": False}, "add_generation_prompt"),
        ("/tokenize", {"messages": HELLO, "chat_template_kwargs": 1}, "chat_template_kwargs"),
        ("/tokenize", {"prompt": "a", "return_token_strs": 1}, "return_token_strs"),
        ("/tokenize", {"prompt": "a", "add_special_tokens": 1}, "add_special_tokens"),
        ("/tokenize", {"prompt": "x" * 70_000}, "prompt"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": [256]}, "tokens"),
        ("/detokenize", {"tokens": "a"}, "tokens"),
        ("/detokenize", {"tokens": [1], "model": "other"}, "model"),
    ],
)
def test_bad_questions_about_text_are_refused_by_name(path: str, body: dict[str, Any], param: str) -> None:
    async def test(client: httpx.AsyncClient) -> None:
        refused = await post(client, body, path)
        assert refused.status_code in (400, 404)
        assert error_of(refused)["param"] == param

    run(test)


def test_unknown_routes_and_methods_get_openais_errors() -> None:
    async def test(client: httpx.AsyncClient) -> None:
        unknown = await post(client, {}, "/v1/embeddings")
        assert (unknown.status_code, error_of(unknown)["code"]) == (404, "unknown_url")
        assert "Invalid URL (POST /v1/embeddings)" in error_of(unknown)["message"]
        wrong = await client.get(CHAT)
        assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
        assert error_of(wrong)["code"] == "method_not_supported"

    run(test)


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (CHAT, {"messages": HELLO, "max_tokens": 10_000}, "messages"),
        (COMPLETIONS, {"prompt": "a", "max_tokens": 10_000}, "prompt"),
        (COMPLETIONS, {"prompt": [1] * 5000}, "prompt"),
        (COMPLETIONS, {"prompt": "x" * 70_000}, "prompt"),
    ],
)
def test_a_request_longer_than_the_context_says_so_as_openai_does(path: str, body: dict[str, Any], param: str) -> None:
    async def test() -> None:
        async with AppBench(ShortWorker).client() as client:
            refused = await post(client, body, path)
            error = error_of(refused)
            assert (refused.status_code, error["code"], error["param"]) == (400, "context_length_exceeded", param)
            assert error["type"] == "invalid_request_error"
            assert error["message"].startswith("This model's maximum context length is 4096 tokens. ")

    asyncio.run(test())


class ShortWorker(StrictWorker):
    """Refuses what does not fit, as the real one does."""

    async def generate(self, fields: Any, *more: Any) -> Any:
        from trimode.workers.params import check_fits, parse_params

        params = parse_params({"mode": "ar", "max_new_tokens": fields["max_new_tokens"]})
        check_fits(9, params, 4096, has_adapter=False)
        return await super().generate(fields, *more)


def test_a_death_costs_no_question_about_text() -> None:
    class Mortal(StrictWorker):
        async def text(self, task: str, fields: Mapping[str, object]) -> dict[str, Any]:
            if self.dead is not None:
                raise WorkerError(self.dead)
            return await super().text(task, fields)

    async def test() -> None:
        bench = AppBench(Mortal)
        async with bench.client() as client:
            for worker in bench.workers[:1]:
                assert isinstance(worker, StrictWorker)
                worker.dead = "it died"
            assert (await post(client, {"prompt": "abc"}, "/tokenize")).json()["count"] == 3
            assert bench.deaths == ["it died"]

    asyncio.run(test())


def test_null_stands_for_a_field_that_is_not_given() -> None:
    async def test(client: httpx.AsyncClient) -> None:
        asked = {"prompt": "abc", "messages": None, "add_generation_prompt": None}
        assert (await post(client, asked, "/tokenize")).json()["count"] == 3
        assert (await post(client, {"prompt": None, "messages": HELLO}, "/tokenize")).json()["count"] == 5
        assert (await post(client, {"prompt": None}, "/tokenize")).status_code == 400

    run(test)


def test_a_worker_that_does_not_answer_is_left_and_another_one_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent(StrictWorker):
        """Answers no question about text."""

        async def text(self, task: str, fields: Mapping[str, object]) -> dict[str, Any]:  # noqa: ARG002
            await asyncio.Event().wait()
            raise AssertionError

    async def test() -> None:
        monkeypatch.setattr(service, "TEXT_S", 0.05)
        workers = iter([Silent(), StrictWorker()])
        bench = AppBench(lambda: next(workers))
        async with bench.client() as client:
            assert (await post(client, {"prompt": "abc"}, "/tokenize")).json()["tokens"] == [97, 98, 99]
            bench.router.slots[1].worker = None
            refused = await post(client, {"prompt": "abc"}, "/tokenize")
            assert refused.status_code == 503
            assert "no worker has answered within 0.05 s" in error_of(refused)["message"]
        assert bench.deaths == []

    asyncio.run(test())


class Noting(StrictWorker):
    """Notes what it is asked about text. It has no tokenizer."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Mapping[str, object]] = []

    async def text(self, task: str, fields: Mapping[str, object]) -> dict[str, Any]:
        if task == "vocabulary":
            return {"tokens": None, "special": [], "info": {}}
        self.asked.append(fields)
        return {"tokens": [1]}


@pytest.mark.parametrize(
    ("more", "thinks"),
    [
        ({}, False),
        ({"enable_thinking": True}, True),
        ({"chat_template_kwargs": {"enable_thinking": True}}, True),
        ({"chat_template_kwargs": {"enable_thinking": False}, "enable_thinking": True}, False),
    ],
)
def test_messages_are_templated_with_or_without_thinking(more: dict[str, object], thinks: bool) -> None:
    async def test() -> None:
        bench = AppBench(Noting, num_workers=1)
        async with bench.client() as client:
            await post(client, {"messages": HELLO, **more}, "/tokenize")
        [worker] = bench.workers
        assert isinstance(worker, Noting)
        assert [fields["enable_thinking"] for fields in worker.asked] == [thinks]

    asyncio.run(test())


def test_the_worker_with_the_least_work_is_asked_about_text() -> None:
    async def test() -> None:
        bench = AppBench(Noting)
        bench.router.slots[0].outstanding = 10.0
        async with bench.client() as client:
            await post(client, {"prompt": "abc"}, "/tokenize")
        busy, free = bench.workers
        assert isinstance(busy, Noting) and isinstance(free, Noting)
        assert (len(busy.asked), len(free.asked)) == (0, 1)

    asyncio.run(test())


def test_without_a_tokenizer_nothing_is_said_of_it() -> None:
    async def test() -> None:
        async with AppBench(Noting).client() as client:
            refused = await client.get("/tokenizer_info")
            assert (refused.status_code, error_of(refused)["message"]) == (404, "this checkpoint has no tokenizer")

    asyncio.run(test())
