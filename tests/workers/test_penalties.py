"""Presence, frequency and bias: what counts as seen in each mode, and that linear_spec stays ar."""

from __future__ import annotations

import dataclasses

import pytest
from trimode.core.protocol import DecodeParams
from trimode.tests.workers.micro import load_cases
from trimode.workers.decode.chunk import Chunk, Verify
from trimode.workers.runtime import Runtime
from trimode.workers.sampling.plan import SampleRequest, plan_sampling

PROMPTS = [case.fields["prompt_ids"] for case in load_cases() if case.name.endswith("-ar")]
GREEDY = DecodeParams(mode="ar", max_new_tokens=1, block_length=1, threshold=None)
ALL: list[dict[str, object]] = [
    {"presence_penalty": 2.0, "temperature": 0.0},
    {"frequency_penalty": 2.0},
    {"presence_penalty": -2.0, "frequency_penalty": -2.0},
    {"repetition_penalty": 1.3, "presence_penalty": 0.5, "frequency_penalty": 0.5},
    {"logit_bias": {"25": -100, "18": 3.5}},
    {"logit_bias": {"25": 4}, "frequency_penalty": 2.0},
]


def tokens(runtime: Runtime, requests: list[dict[str, object]]) -> list[list[int]]:
    sequences = [runtime.submit(str(number), fields) for number, fields in enumerate(requests)]
    while runtime.engine.busy:
        runtime.engine.step()
    assert [sequence.error for sequence in sequences] == [None] * len(sequences)
    return [sequence.state.tokens() for sequence in sequences]


@pytest.mark.parametrize("penalties", ALL)
def test_linear_spec_gives_what_ar_gives_under_penalties(micro: Runtime, penalties: dict[str, object]) -> None:
    asked = [{"prompt_ids": p, "max_new_tokens": 90, "ignore_eos": True, **penalties} for p in PROMPTS[:2]]
    ar = tokens(micro, [{**fields, "mode": "ar"} for fields in asked])
    for spec in ({"block_length": 8}, {"block_length": 16, "threshold": 0.5}, {"block_length": 8, "lora": True}):
        assert tokens(micro, [{**fields, "mode": "linear_spec", **spec} for fields in asked]) == ar
    assert ar != tokens(
        micro, [{"prompt_ids": p, "mode": "ar", "max_new_tokens": 90, "ignore_eos": True} for p in PROMPTS[:2]]
    )


@pytest.mark.parametrize("mode", ["ar", "dlm", "linear_spec"])
def test_a_token_of_a_bias_of_minus_a_hundred_never_appears(micro: Runtime, mode: str) -> None:
    plain = {"prompt_ids": PROMPTS[0], "mode": mode, "max_new_tokens": 30, "ignore_eos": True, "block_length": 4}
    plain["block_length"] = 1 if mode == "ar" else 4
    first = tokens(micro, [plain])[0]
    banned = max(set(first), key=first.count)
    assert banned not in tokens(micro, [{**plain, "logit_bias": {str(banned): -100}}])[0]


def entries(params: DecodeParams, chunk: Chunk) -> dict[int, dict[int, tuple[float, float, float]]]:
    """Per row and token: what is added, what divides, what is taken off."""
    arrays = plan_sampling([SampleRequest(chunk, params)]).arrays
    found: dict[int, dict[int, tuple[float, float, float]]] = {}
    names = ("penalty_row", "penalty_token", "bias", "penalty", "taken")
    for row, token, *numbers in zip(*(arrays.get(name, ()) for name in names), strict=True):
        found.setdefault(row, {})[token] = tuple(round(number, 5) for number in numbers)
    return found


def chunk(count: int, **fields: object) -> Chunk:
    return Chunk("decode", list(range(count)), 5, True, True, range(count), "decode", **fields)  # type: ignore[arg-type]


def test_presence_and_frequency_count_the_output_and_repetition_the_prompt_too() -> None:
    params = dataclasses.replace(GREEDY, presence_penalty=0.5, frequency_penalty=0.25, repetition_penalty=2.0)
    found = entries(params, chunk(1, history=[4, 4, 3, 5, 5], num_prompt_history=2))
    assert found == {0: {3: (0.0, 2.0, 0.75), 4: (0.0, 2.0, 0.0), 5: (0.0, 2.0, 1.0)}}


def test_without_a_repetition_penalty_the_prompt_takes_no_entry() -> None:
    params = dataclasses.replace(GREEDY, presence_penalty=0.5)
    assert entries(params, chunk(1, history=[4, 3], num_prompt_history=1)) == {0: {3: (0.0, 1.0, 0.5)}}


def test_a_verified_row_counts_the_drafts_before_it() -> None:
    params = dataclasses.replace(GREEDY, frequency_penalty=1.0)
    found = entries(params, chunk(3, history=[9, 1], num_prompt_history=1, selection=Verify()))
    assert found == {0: {1: (0.0, 1.0, 1.0)}, 1: {1: (0.0, 1.0, 2.0)}, 2: {1: (0.0, 1.0, 2.0), 2: (0.0, 1.0, 1.0)}}


def test_a_bias_alone_needs_no_past() -> None:
    params = dataclasses.replace(GREEDY, logit_bias=((6, 2.0),))
    assert not params.sees_past
    assert entries(params, chunk(2, history=[])) == {0: {6: (2.0, 1.0, 0.0)}, 1: {6: (2.0, 1.0, 0.0)}}


def test_a_masked_position_of_a_block_sees_what_is_committed_on_both_sides(micro: Runtime) -> None:
    """The output and every committed token of the block, also those to the right."""
    sequence = micro.submit("r", {
        "prompt_ids": PROMPTS[0], "mode": "dlm", "block_length": 8, "threshold": 0.99, "max_new_tokens": 16,
        "frequency_penalty": 0.1, "ignore_eos": True,
    })  # fmt: skip
    seen = []
    while sequence.state.finish_reason is None:
        item = sequence.state.next_chunk() if sequence.pages else None
        if item is not None and item.kind == "denoise":
            known = [token for row, token in enumerate(item.token_ids) if row not in item.rows]
            history = list(item.history or ())[item.num_prompt_history :]
            seen.append((history, [*sequence.state.output, *known]))
        micro.engine.step()
    assert seen
    assert all(history == expected for history, expected in seen)
