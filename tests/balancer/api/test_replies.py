"""Bodies and usage built from finished generations."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest
from trimode.balancer.api.logprobs import LOWEST_LOGPROB
from trimode.balancer.api.replies import chat_body, completion_body, error_body, json_safe, usage
from trimode.balancer.api.requests import parse_chat, parse_completion
from trimode.balancer.api.vocabulary import Vocabulary
from trimode.balancer.work import Reply
from trimode.core.protocol import Mode
from trimode.tests.fakes.worker import cost, generation

WORDS = Vocabulary(
    [b"a", b" b", b"c", b"\xe2\x82", b"\xac", b"<end>", b"d"], frozenset({5}), {"tokenizer_class": "Fake"}
)
"""Tokens 3 and 4 together are a euro sign; 5 is a special token."""
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


def test_without_a_tokenizer_tokens_are_named_by_id_and_stay_json() -> None:
    parsed = dataclasses.replace(PARSED, logprobs=True)
    item = reply(token_ids=[4, 9], logprobs=[-0.5, -math.inf])
    content = chat_body(HEAD, parsed, [item])["choices"][0]["logprobs"]["content"]
    assert [(entry["token"], entry["logprob"]) for entry in content] == [
        ("token_id:4", -0.5),
        ("token_id:9", LOWEST_LOGPROB),
    ]
    text = completion_body(HEAD, parsed, [item])["choices"][0]["logprobs"]
    assert (text["tokens"], text["token_logprobs"]) == (["token_id:4", "token_id:9"], [-0.5, LOWEST_LOGPROB])


def completion(**body: Any) -> Any:
    return parse_completion({"prompt": "ab", **body}, Mode.AR)


def test_chat_alternatives_have_text_and_bytes() -> None:
    parsed = parse_chat({"messages": [{"role": "user", "content": "x"}], "logprobs": True, "top_logprobs": 2}, Mode.AR)
    tops = [[(1, -0.5), (3, -1.5)], [(5, -0.25), (0, -math.inf)]]
    item = reply(token_ids=[1, 5], logprobs=[-0.5, -0.25], top_logprobs=tops)
    content = chat_body(HEAD, parsed, [item], WORDS)["choices"][0]["logprobs"]["content"]
    assert content[0] == {
        "token": " b", "logprob": -0.5, "bytes": [32, 98], "top_logprobs": [
            {"token": " b", "logprob": -0.5, "bytes": [32, 98]},
            {"token": "bytes:\\xe2\\x82", "logprob": -1.5, "bytes": [0xE2, 0x82]},
        ],
    }  # fmt: skip
    assert [entry["token"] for entry in content[1]["top_logprobs"]] == ["<end>", "a"]
    assert content[1]["top_logprobs"][1]["logprob"] == LOWEST_LOGPROB


def test_text_alternatives_hold_the_token_itself_and_offsets_count_characters() -> None:
    item = reply(
        text="a\u20ac d", token_ids=[0, 3, 4, 5, 6], logprobs=[-1.0, -2.0, -3.0, -4.0, -5.0],
        top_logprobs=[[(2, -0.5)], [(3, -2.0)], [(4, -3.0)], [(5, -4.0)], [(6, -5.0)]],
    )  # fmt: skip
    shown = completion_body(HEAD, completion(logprobs=1), [item], WORDS)["choices"][0]["logprobs"]
    assert shown["text_offset"] == [0, 1, 1, 2, 2]
    assert shown["top_logprobs"][0] == {"c": -0.5, "a": -1.0}
    assert list(shown["tokens"]) == ["a", "bytes:\\xe2\\x82", "bytes:\\xac", "<end>", "d"]
    assert (
        completion_body(HEAD, completion(logprobs=0), [reply(logprobs=[-1.0])], WORDS)["choices"][0]["logprobs"][
            "top_logprobs"
        ]
        is None
    )


def test_the_token_stands_first_among_equals() -> None:
    item = reply(token_ids=[2], logprobs=[-0.5], top_logprobs=[[(0, -0.5), (2, -0.5)]])
    shown = completion_body(HEAD, completion(logprobs=2), [item], WORDS)["choices"][0]["logprobs"]
    assert list(shown["top_logprobs"][0]) == ["c", "a"]


def test_an_echo_repeats_the_prompt_with_its_log_probabilities() -> None:
    parsed = completion(prompt=[[0, 1], "c"], echo=True, logprobs=1, max_tokens=1)
    first = reply(
        text="c", token_ids=[2], logprobs=[-0.5], top_logprobs=[[(2, -0.5)]], prompt_token_ids=[0, 1],
        prompt_logprobs=[-2.0], prompt_top_logprobs=[[(6, -0.1)]],
    )  # fmt: skip
    second = reply(
        text="d", token_ids=[6], logprobs=[-0.5], top_logprobs=[[(6, -0.5)]], prompt_token_ids=[2], prompt_logprobs=[]
    )
    body = completion_body(HEAD, parsed, [first, second], WORDS)
    assert [choice["text"] for choice in body["choices"]] == ["a bc", "cd"]
    assert body["choices"][0]["logprobs"] == {
        "tokens": ["a", " b", "c"],
        "token_logprobs": [None, -2.0, -0.5],
        "top_logprobs": [None, {"d": -0.1, " b": -2.0}, {"c": -0.5}],
        "text_offset": [0, 1, 3],
    }
    assert body["choices"][1]["logprobs"]["token_logprobs"] == [None, -0.5]
    assert "prompt_logprobs" not in body["choices"][0]


def test_an_echo_of_ids_without_logprobs_is_text() -> None:
    parsed = completion(prompt=[0, 1, 5], echo=True)
    assert completion_body(HEAD, parsed, [reply(text="x")], WORDS)["choices"][0]["text"] == "a b<end>x"


def test_prompt_logprobs_are_vllms() -> None:
    item = reply(prompt_token_ids=[0, 1], prompt_logprobs=[-2.0], prompt_top_logprobs=[[(2, -0.5)]])
    expected = [
        None,
        {
            "1": {"logprob": -2.0, "rank": None, "decoded_token": " b"},
            "2": {"logprob": -0.5, "rank": 1, "decoded_token": "c"},
        },
    ]
    assert (
        completion_body(HEAD, completion(prompt_logprobs=1), [item], WORDS)["choices"][0]["prompt_logprobs"] == expected
    )
    parsed = parse_chat({"messages": [{"role": "user", "content": "x"}], "prompt_logprobs": 1}, Mode.AR)
    assert chat_body(HEAD, parsed, [item], WORDS)["prompt_logprobs"] == expected


def test_tokens_are_named_by_id_on_request() -> None:
    parsed = completion(logprobs=0, return_tokens_as_token_ids=True)
    shown = completion_body(HEAD, parsed, [reply(token_ids=[1], logprobs=[-1.0])], WORDS)["choices"][0]["logprobs"]
    assert shown["tokens"] == ["token_id:1"]


def test_each_prompt_counts_once_in_the_usage() -> None:
    counts = usage(
        [costing(prompt_tokens=5), costing(prompt_tokens=5), costing(prompt_tokens=7), costing(prompt_tokens=7)], 2
    )
    assert (counts["prompt_tokens"], counts["completion_tokens"]) == (12, 12)


def test_thoughts_stand_apart_from_the_answer() -> None:
    body = {"messages": [{"role": "user", "content": "x"}], "enable_thinking": True}
    made = chat_body(HEAD, parse_chat(body, Mode.AR), [reply(text="hm</think>4"), reply(text="hm")])
    assert [choice["message"] for choice in made["choices"]] == [
        {"role": "assistant", "content": "4", "reasoning_content": "hm"},
        {"role": "assistant", "content": "", "reasoning_content": "hm"},
    ]
    whole = chat_body(HEAD, parse_chat({**body, "separate_reasoning": False}, Mode.AR), [reply(text="hm</think>4")])
    assert whole["choices"][0]["message"] == {"role": "assistant", "content": "hm</think>4"}


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, "invalid_request_error"), (401, "authentication_error"), (429, "rate_limit_error"), (503, "server_error")],
)
def test_the_type_of_an_error_follows_from_its_status(status: int, kind: str) -> None:
    error = error_body("n: got 0", status, "n")["error"]
    assert error == {"message": "n: got 0", "type": kind, "param": "n", "code": None}


def test_numbers_that_json_lacks_become_null() -> None:
    assert json.dumps(json_safe({"a": [math.nan, (1.5, -math.inf)]})) == '{"a": [null, [1.5, null]]}'


def test_cycles_by_width_are_summed_and_absent_where_there_are_none() -> None:
    both = usage([costing(widths={"1": 2, "8": 1}), costing(widths={"8": 3})])
    assert both["widths"] == {"1": 2, "8": 4}
    assert "widths" not in usage([costing()])
