"""The chunk after one that still runs: known up to the sampled tokens, or not known at all."""

from __future__ import annotations

import dataclasses

import pytest
from trimode.tests.fakes.forward import CONTEXT, END_THINK, FakeModel, begun, filled, new_state, peek, step
from trimode.workers.decode.chunk import deferred, deferred_row
from trimode.workers.decode.state import DecodeState

SLICES = dataclasses.replace(CONTEXT, prefill_slice=2)


def test_a_marker_names_its_row() -> None:
    assert [deferred_row(deferred(row)) for row in (0, 1, 31)] == [0, 1, 31]
    assert all(deferred(row) < 0 for row in (0, 31))


@pytest.mark.parametrize("mode", ["ar", "dlm", "linear_spec"])
def test_a_slice_of_the_prompt_is_followed_by_the_next(mode: str) -> None:
    state = new_state(mode, (1, 2, 3, 4, 5), SLICES)
    first = state.next_chunk()
    second = state.following(first)
    assert second is not None
    assert (second.token_ids, second.position, second.rows) == ([3, 4], 2, ())
    step(state)
    third = state.following(second)
    assert third is not None
    assert (third.token_ids, third.position, list(third.rows)) == ([5], 4, [0])


def test_ar_goes_on_with_the_token_that_is_being_sampled() -> None:
    state = new_state("ar")
    chunk = peek(state)
    for token in (20, 21, 22):
        following = state.following(chunk)
        assert following is not None
        assert (following.token_ids, following.position) == ([deferred(0)], len(state.prompt_ids) + len(state.output))
        step(state, token)
        assert filled(following, [token]) == state.next_chunk()
        chunk = following


def test_a_one_pass_draft_is_followed_by_its_verify() -> None:
    state = begun("linear_spec", 5)
    following = state.following(peek(state))
    assert following is not None
    assert (following.kind, following.token_ids) == ("verify", [5, deferred(0), deferred(1), deferred(2)])
    step(state, 6, 7, 8)
    assert filled(following, [6, 7, 8]) == state.next_chunk()


def test_a_prompt_is_followed_by_a_draft_of_the_token_that_is_being_sampled() -> None:
    state = new_state("linear_spec", lora=True)
    following = state.following(peek(state))
    assert following is not None
    assert (following.kind, following.lora, following.token_ids[0]) == ("draft", True, deferred(0))
    step(state, 20)
    assert filled(following, [20]) == state.next_chunk()


@pytest.mark.parametrize(
    "state",
    [
        begun("ar", 5, max_new_tokens=2),
        new_state("ar", max_new_tokens=1),
        begun("ar", 5, repetition_penalty=1.1),
        begun("ar", 5, max_thinking_tokens=3, end_think_token_id=END_THINK),
        new_state("dlm"),
        begun("dlm", 5),
        begun("linear_spec", 5, threshold=0.5),
        begun("linear_spec", 5, temperature=1.0),
        begun("linear_spec", 5, repetition_penalty=1.1),
        new_state("linear_spec", max_new_tokens=1),
        new_state("linear_spec", block_length=1, threshold=0.5),
    ],
    ids=[
        "ar at its limit", "one token", "penalty", "thinking", "dlm prompt", "dlm block", "draft in many passes",
        "rejection sampling", "penalised draft", "one token of linear_spec", "a block that is not drafted",
    ],
)  # fmt: skip
def test_what_depends_on_more_than_tokens_is_not_known(state: DecodeState) -> None:
    assert state.following(peek(state)) is None


def test_a_verify_says_nothing_about_the_next_draft() -> None:
    state = begun("linear_spec", 5)
    step(state, 6, 7, 8)
    assert state.following(peek(state)) is None


def test_after_the_end_of_thinking_ar_goes_on() -> None:
    state = begun("ar", END_THINK, max_thinking_tokens=9, end_think_token_id=END_THINK)
    assert state.following(peek(state)) is not None


@pytest.mark.parametrize(("mode", "share"), [("ar", 1.0), ("linear_spec", 0.5)])
def test_a_whole_request_is_known_beforehand(mode: str, share: float) -> None:
    """The fake model compares every following chunk with the one that runs then."""
    state = new_state(mode, (1, 2, 3), max_new_tokens=40, ignore_eos=True)
    model = FakeModel([20, 21, 22], [20, 22, 21], [0.5])
    model.run(state)
    assert model.num_followed >= share * (len(model.chunks) - 1)
