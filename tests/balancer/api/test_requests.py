"""Reading of request bodies."""

from __future__ import annotations

from typing import Any

import pytest
from trimode.balancer.api.prompts import prompt_sha256
from trimode.balancer.api.requests import parse_chat, parse_completion
from trimode.core.errors import InvalidRequestError
from trimode.core.protocol import Mode

HELLO = [{"role": "user", "content": "hello"}]


def chat(**body: Any) -> dict[str, Any]:
    return parse_chat({"messages": HELLO, **body}, Mode.dlm).fields


def refusal(**body: Any) -> InvalidRequestError:
    with pytest.raises(InvalidRequestError) as caught:
        parse_chat({"messages": HELLO, **body}, Mode.ar)
    return caught.value


def test_mode_is_the_servers_when_the_body_names_none() -> None:
    assert chat()["mode"] == "dlm"
    assert chat(mode="ar")["mode"] == "ar"


def test_null_means_absent_but_for_threshold() -> None:
    fields = chat(threshold=None, block_length=None, temperature=None)
    assert fields["threshold"] is None
    assert "block_length" not in fields
    assert "temperature" not in fields
    assert "threshold" not in chat()


def test_newer_name_of_the_token_limit_wins() -> None:
    assert chat(max_tokens=7)["max_new_tokens"] == 7
    assert chat(max_tokens=7, max_completion_tokens=9)["max_new_tokens"] == 9
    assert chat()["max_new_tokens"] is None


@pytest.mark.parametrize("value", [0, -1, 1.5, "8", True])
def test_bad_token_limits_are_refused(value: object) -> None:
    error = refusal(max_tokens=value)
    assert error.param == "max_tokens"
    assert "valid: " in error.message


def test_text_parts_become_one_string() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert chat(messages=[{"role": "user", "content": parts}])["messages"] == [{"role": "user", "content": "a\nb"}]


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        (None, "messages"),
        ([], "messages"),
        ("hello", "messages"),
        (["hello"], "messages[0]"),
        ([{"role": "robot", "content": "x"}], "messages[0].role"),
        ([{"role": "user"}], "messages[0].content"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}], "messages[0].content"),
        ([{"role": "user", "content": "\ud800"}], "messages[0].content"),
        ([*HELLO, {"role": "assistant", "content": "x", "tool_calls": [{}]}], "messages[1].tool_calls"),
    ],
)
def test_bad_messages_are_refused_by_place(messages: object, param: str) -> None:
    assert refusal(messages=messages).param == param


def test_thinking_from_the_template_arguments() -> None:
    assert chat(chat_template_kwargs={"enable_thinking": True})["enable_thinking"] is True
    assert refusal(chat_template_kwargs={"other": 1}).param == "chat_template_kwargs.other"


@pytest.mark.parametrize("n", [0, 129, "2", True, 1.5])
def test_bad_n_is_refused(n: object) -> None:
    assert refusal(n=n).param == "n"


def test_sampling_without_seed_draws_one() -> None:
    seeds = {chat(temperature=0.7)["seed"] for _ in range(8)}
    assert len(seeds) > 1
    assert "seed" not in chat(temperature=0)
    assert chat(temperature=0.7, seed=3)["seed"] == 3


def test_prompt_is_text_or_ids() -> None:
    assert parse_completion({"prompt": "a"}, Mode.ar).fields["prompt"] == "a"
    assert parse_completion({"prompt": ["a"]}, Mode.ar).fields["prompt"] == "a"
    assert parse_completion({"prompt": [1, 2]}, Mode.ar).fields["prompt_ids"] == [1, 2]
    assert parse_completion({"prompt": [[1, 2]]}, Mode.ar).fields["prompt_ids"] == [1, 2]


@pytest.mark.parametrize(
    "prompt", [None, [], [[]], [1, "a"], ["a", 1], ["a", [True]], [True], [-1], 3, {}, ["a"] * 1025]
)
def test_bad_prompts_are_refused(prompt: object) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse_completion({"prompt": prompt}, Mode.ar)
    assert caught.value.param == "prompt"


def test_refusals_do_not_echo_long_text() -> None:
    assert "secret" not in refusal(request_id="secret " * 100).message


def test_hash_of_messages_does_not_depend_on_how_they_were_written() -> None:
    as_parts = [{"content": [{"type": "text", "text": "hello"}], "role": "user"}]
    assert parse_chat({"messages": as_parts}, Mode.ar).prompt_sha256 == prompt_sha256(HELLO)


def test_several_prompts_of_any_kind() -> None:
    parsed = parse_completion({"prompt": ["a", [1, 2], "b"], "n": 2, "seed": 5}, Mode.ar)
    replies = parsed.replies("id")
    assert [reply.get("prompt", reply.get("prompt_ids")) for reply in replies] == ["a", "a", [1, 2], [1, 2], "b", "b"]
    assert [reply["seed"] for reply in replies] == [5, 6] * 3
    assert [reply["request_id"] for reply in replies] == [f"id-{number}" for number in range(6)]
    assert all(("prompt" in reply) != ("prompt_ids" in reply) for reply in replies)


def test_one_reply_has_the_plain_id_and_the_seed_as_it_is() -> None:
    assert [
        (reply["request_id"], reply.get("seed")) for reply in parse_chat({"messages": HELLO}, Mode.ar).replies("id")
    ] == [("id", None)]


def test_the_alternatives_of_both_routes() -> None:
    assert "top_logprobs" not in chat(logprobs=True)
    assert chat(logprobs=True, top_logprobs=20)["top_logprobs"] == 20
    assert refusal(logprobs=True, top_logprobs=21).param == "top_logprobs"
    assert refusal(top_logprobs=2).param == "top_logprobs"
    fields = parse_completion({"prompt": "a", "logprobs": 3}, Mode.ar).fields
    assert (fields["logprobs"], fields["top_logprobs"]) == (True, 3)
    assert parse_completion({"prompt": "a", "logprobs": 0}, Mode.ar).fields["logprobs"] is True
    with pytest.raises(InvalidRequestError) as caught:
        parse_completion({"prompt": "a", "logprobs": 21}, Mode.ar)
    assert caught.value.param == "logprobs"


def test_echo_with_logprobs_rates_the_prompt() -> None:
    parsed = parse_completion({"prompt": "a", "echo": True, "logprobs": 2, "max_tokens": 0}, Mode.ar)
    assert (parsed.fields["prompt_logprobs"], parsed.fields["max_new_tokens"]) == (2, 0)
    assert not parsed.shows_prompt_logprobs
    assert "prompt_logprobs" not in parse_completion({"prompt": "a", "echo": True}, Mode.ar).fields
    assert refusal(echo=True).param == "echo"


def test_no_tokens_are_asked_for_only_to_rate_a_prompt() -> None:
    for more in ({"echo": True}, {"prompt_logprobs": 0}):
        assert parse_completion({"prompt": "a", "max_tokens": 0, **more}, Mode.ar).fields["prompt_logprobs"] == 0
    with pytest.raises(InvalidRequestError) as caught:
        parse_completion({"prompt": "a", "max_tokens": 0}, Mode.ar)
    assert caught.value.param == "max_tokens"


def test_prompt_logprobs_are_vllms() -> None:
    assert chat(prompt_logprobs=2)["prompt_logprobs"] == 2
    assert "prompt_logprobs" not in chat(prompt_logprobs=False)
    assert refusal(prompt_logprobs=-1).param == "prompt_logprobs"
    assert refusal(prompt_logprobs=True).param == "prompt_logprobs"


def test_decoding_fields_may_stand_among_the_template_arguments() -> None:
    given = {"mode": "linear_spec", "block_length": 16, "threshold": None, "lora": True, "enable_thinking": True}
    fields = chat(chat_template_kwargs=given)
    assert {name: fields[name] for name in given} == given
    assert chat(mode="ar", chat_template_kwargs={"mode": "dlm"})["mode"] == "ar"  # the body's own wins
    assert refusal(chat_template_kwargs={"block_length": 0}).param == "chat_template_kwargs.block_length"
    assert refusal(chat_template_kwargs={"messages": []}).param == "chat_template_kwargs.messages"


def test_no_effort_is_no_thinking() -> None:
    assert chat(reasoning_effort="none")["enable_thinking"] is False
    assert refusal(reasoning_effort="none", enable_thinking=True).param == "reasoning_effort"
    assert refusal(reasoning_effort="high").param == "reasoning_effort"


def test_thoughts_are_given_apart_only_with_thinking_on() -> None:
    def splits(**body: Any) -> bool:
        return parse_chat({"messages": HELLO, **body}, Mode.ar).splits_reasoning

    assert splits(enable_thinking=True)
    assert not splits()
    assert not splits(enable_thinking=True, separate_reasoning=False)
    assert refusal(separate_reasoning="yes").param == "separate_reasoning"


def test_penalties_and_bias_are_handed_on() -> None:
    fields = chat(presence_penalty=-2, frequency_penalty=0.5, logit_bias={"50": -100})
    assert (fields["presence_penalty"], fields["frequency_penalty"]) == (-2.0, 0.5)
    assert fields["logit_bias"] == ((50, -100.0),)
    for name, value in (("presence_penalty", 2.1), ("frequency_penalty", "a"), ("logit_bias", {"a": 1})):
        assert refusal(**{name: value}).param == name


@pytest.mark.parametrize(
    "field",
    [
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"tool_choice": "required"},
        {"functions": [{"name": "f"}]},
        {"modalities": ["text", "audio"]},
        {"audio": {"voice": "alloy", "format": "wav"}},
        {"guided_json": {}},
        {"structured_outputs": {"json": {}}},
    ],
)
def test_what_would_change_the_answer_is_refused_by_name(field: dict[str, Any]) -> None:
    error = refusal(**field)
    assert error.param == next(iter(field))
    assert "which this server does not offer" in error.message


@pytest.mark.parametrize("kind", ["image_url", "input_audio", "file", "video_url"])
def test_parts_that_are_no_text_are_named(kind: str) -> None:
    error = refusal(messages=[{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": kind, kind: {}}]}])
    assert error.param == "messages[0].content"
    assert f'"{kind}"' in error.message
