"""Reading of request bodies."""

from __future__ import annotations

from typing import Any

import pytest
from trimode.balancer.api.requests import parse_chat, parse_completion, prompt_sha256
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


@pytest.mark.parametrize("prompt", [None, [], ["a", "b"], [[1], [2]], [1, "a"], [True], [-1], 3, {}])
def test_bad_prompts_are_refused(prompt: object) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse_completion({"prompt": prompt}, Mode.ar)
    assert caught.value.param == "prompt"


def test_refusals_do_not_echo_long_text() -> None:
    assert "secret" not in refusal(request_id="secret " * 100).message


def test_hash_of_messages_does_not_depend_on_how_they_were_written() -> None:
    as_parts = [{"content": [{"type": "text", "text": "hello"}], "role": "user"}]
    assert parse_chat({"messages": as_parts}, Mode.ar).prompt_sha256 == prompt_sha256(HELLO)
