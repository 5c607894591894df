"""The state of a request as JSON, and the whole request from its parts."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest
from trimode.core.continuation import Continuation, join, request_digest
from trimode.core.protocol import DecodeParams

PARAMS = DecodeParams(mode="ar", max_new_tokens=8, block_length=1, threshold=None)


def part(start: int, *tokens: int, **changes: Any) -> Continuation:
    """A part whose trace has one entry per token."""
    fields = {"digest": "d", "token_ids": list(tokens), "forwards": {"decode": start + len(tokens)}, "start": start}
    return Continuation(**(fields | {"trace": [[token] for token in tokens], "trace_start": start} | changes))


def test_json_gives_the_same_back() -> None:
    whole = part(0, 5, 6, logprobs=[-0.1, -math.inf], next_token=7, forced_logprob=-2.5, continuations=3)
    assert Continuation.from_json(json.loads(json.dumps(whole.to_json()))) == whole


def test_json_leaves_out_what_has_its_default() -> None:
    assert part(0, 5, trace=None).to_json() == {"digest": "d", "token_ids": [5], "forwards": {"decode": 1}}


@pytest.mark.parametrize("changes", [{}, {"trace": None}, {"next_token": 7, "next_logprob": -0.5, "forwards_saved": 2}])
def test_what_stands_beside_tokens_is_the_same_without_them(changes: dict[str, Any]) -> None:
    whole = part(3, 5, 6, logprobs=[-0.1, -0.2], **changes)
    expected = {name: value for name, value in whole.to_json().items() if name not in ("token_ids", "logprobs")}
    assert whole.counts_to_json() == expected


def test_parts_join_and_may_overlap() -> None:
    parts = [part(0, 1, 2), part(2, 3), part(1, 2, 3, 4), part(0, 1), part(4, 5)]
    assert join(parts) == part(0, 1, 2, 3, 4, 5)
    assert part(0, 1).add(part(1, 2)) == part(0, 1, 2)


def test_parts_that_begin_later_join_to_a_part() -> None:
    assert join([part(3, 4), part(4, 5)]) == part(3, 4, 5)


@pytest.mark.parametrize(
    ("later", "words"),
    [
        (part(3, 4), "missing before number 3"),
        (part(1, 9, 9), "different tokens from number 1 on"),
        (part(2, 3, digest="e"), "several requests"),
        (part(2, 3, trace_start=5), "missing before number 2"),
    ],
)
def test_parts_that_do_not_fit_are_refused(later: Continuation, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        part(0, 1, 2).add(later)


@pytest.mark.parametrize(
    "damage",
    [
        {"digest": 3},
        {"token_ids": None},
        {"token_ids": [True]},
        {"token_ids": [1.5]},
        {"forwards": {"decode": -1}},
        {"forwards": []},
        {"logprobs": ["a"]},
        {"next_logprob": None},
        {"trace": 3},
        {"unknown": 1},
    ],
)
def test_damaged_json_is_refused(damage: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="no continuation"):
        Continuation.from_json(part(0, 5).to_json() | damage)


def test_the_digest_is_that_of_prompt_and_parameters() -> None:
    known = request_digest([1, 2], PARAMS)
    assert known == request_digest((1, 2), dataclasses.replace(PARAMS))
    others = {request_digest([1], PARAMS), request_digest([2, 1], PARAMS)}
    others |= {request_digest([1, 2], dataclasses.replace(PARAMS, **c)) for c in ({"seed": 1}, {"stop": ("a",)})}
    assert len(others | {known}) == 5
