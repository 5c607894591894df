"""Bodies and usage built from finished generations."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest
from trimode.balancer.api.replies import LOWEST_LOGPROB, chat_body, completion_body, error_body, json_safe, usage
from trimode.balancer.api.requests import parse_chat
from trimode.balancer.work import Reply
from trimode.core.protocol import Mode
from trimode.tests.fakes.worker import cost, generation

HEAD = {"id": "chatcmpl-1", "created": 1, "model": "tri"}
PARSED = parse_chat({"messages": [{"role": "user", "content": "hello"}]}, Mode.AR)


def reply(waited_s: float = 0.0, **changes: Any) -> Reply:
    return Reply(generation(**changes), waited_s)


def costing(waited_s: float = 0.0, **changes: Any) -> Reply:
    return reply(waited_s, cost=cost(**changes))


def test_a_chat_reply_is_openais() -> None:
    body = chat_body(HEAD, PARSED, [reply(text="four")])
    assert body["object"] == "chat.completion"
    assert body["id"] == "chatcmpl-1"
    message = {"role": "assistant", "content": "four"}
    assert body["choices"] == [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}]


def test_a_text_reply_is_openais() -> None:
    body = completion_body(HEAD, PARSED, [reply(text="four"), reply(text="five", finish_reason="length")])
    assert body["object"] == "text_completion"
    shown = [(choice["index"], choice["text"], choice["finish_reason"]) for choice in body["choices"]]
    assert shown == [(0, "four", "stop"), (1, "five", "length")]


def test_without_a_tokenizer_the_content_is_empty() -> None:
    assert chat_body(HEAD, PARSED, [reply(text=None)])["choices"][0]["message"]["content"] == ""


def test_token_ids_are_shown_on_request() -> None:
    parsed = dataclasses.replace(PARSED, return_token_ids=True)
    assert chat_body(HEAD, parsed, [reply()])["choices"][0]["token_ids"] == [0, 1, 2]


def test_counts_add_up_over_replies_but_the_prompts() -> None:
    counts = usage([costing(acceptance_lengths=[1, 2]), costing(completion_tokens=1, nfe=1, acceptance_lengths=[3])])
    assert (counts["prompt_tokens"], counts["completion_tokens"], counts["total_tokens"]) == (5, 4, 9)
    assert (counts["nfe"], counts["tpf"]) == (3, 1.3333)
    assert (counts["forwards"]["prefill"], counts["forwards"]["decode"]) == (2, 4)
    assert counts["acceptance_lengths"] == [1, 2, 3]


def test_saved_forwards_add_up_beside_the_forwards() -> None:
    assert usage([costing(forwards_saved=2), costing(forwards_saved=1)])["forwards_saved"] == 3


def test_seconds_are_those_of_the_slowest_reply_with_its_wait() -> None:
    counts = usage([costing(waited_s=2.0, total_s=1.0), costing(waited_s=0.5, total_s=4.0)])
    assert (counts["queue_s"], counts["first_token_s"], counts["total_s"]) == (2.25, 2.5, 4.5)


def test_no_forwards_have_no_ratio() -> None:
    assert usage([costing(nfe=0)])["tpf"] is None


def test_logprobs_name_tokens_by_id_and_stay_json() -> None:
    parsed = dataclasses.replace(PARSED, logprobs=True)
    item = reply(token_ids=[4, 9], logprobs=[-0.5, -math.inf])
    content = chat_body(HEAD, parsed, [item])["choices"][0]["logprobs"]["content"]
    assert [(entry["token"], entry["logprob"]) for entry in content] == [
        ("token_id:4", -0.5),
        ("token_id:9", LOWEST_LOGPROB),
    ]
    text = completion_body(HEAD, parsed, [item])["choices"][0]["logprobs"]
    assert (text["tokens"], text["token_logprobs"]) == (["token_id:4", "token_id:9"], [-0.5, LOWEST_LOGPROB])


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, "invalid_request_error"), (401, "authentication_error"), (429, "rate_limit_error"), (503, "server_error")],
)
def test_the_type_of_an_error_follows_from_its_status(status: int, kind: str) -> None:
    error = error_body("n: got 0", status, "n")["error"]
    assert error == {"message": "n: got 0", "type": kind, "param": "n", "code": None}


def test_numbers_that_json_lacks_become_null() -> None:
    assert json.dumps(json_safe({"a": [math.nan, (1.5, -math.inf)]})) == '{"a": [null, [1.5, null]]}'
