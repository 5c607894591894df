"""The linear_spec mode by hand: draft a block with full attention, verify it causally, keep what was accepted."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest
from trimode.tests.fakes.forward import (
    CONTEXT,
    END_THINK,
    EOS,
    MASK,
    PROMPT,
    begun,
    logprobs,
    new_state,
    peek,
    sampled,
    step,
)
from trimode.workers.decode.chunk import Chunk, Commit, Confidence, Verify
from trimode.workers.decode.state import DecodeState

THINK = {"end_think_token_id": END_THINK}


def draft(tokens: list[int], position: int, number: int = 0, **changes: object) -> Chunk:
    """A draft pass: full attention, nothing kept, logits of the masked positions only."""
    chunk = Chunk(
        "draft",
        tokens,
        position,
        causal=False,
        keep_kv=False,
        rows=tuple(index for index, token in enumerate(tokens) if token == MASK),
        purpose=f"draft{number}",
        selection=Commit(0.0, 1),
        confidence=Confidence.TEMPERED,
    )
    return dataclasses.replace(chunk, **changes)  # type: ignore[arg-type]


def verify(tokens: list[int], position: int) -> Chunk:
    """A causal pass over the block that wants the logits of every token."""
    rows = tuple(range(len(tokens)))
    return Chunk(
        "verify",
        tokens,
        position,
        causal=True,
        keep_kv=True,
        rows=rows,
        purpose="verify",
        selection=Verify(),
        sample_offset=1,
    )


def cycle(state: DecodeState, *tokens: int) -> None:
    """One draft pass and one verify that accepts `tokens`, the last of which no draft had."""
    drafts = [*tokens[:-1], 70, 70, 70][:3]
    step(state, *drafts)
    step(state, *[*tokens, 71, 71, 71][:4], accepted=len(tokens))


def test_the_prompt_s_token_is_emitted_at_once() -> None:
    state = begun("linear_spec", 5)
    assert (state.output, state.logprobs, state.cached, state.finish_reason) == ([5], logprobs(5), 3, None)


def test_an_end_token_from_the_prompt_ends_without_a_draft() -> None:
    state = begun("linear_spec", EOS)
    assert (state.tokens(), state.finish_reason, state.nfe(state.forwards)) == ([EOS], "stop", 1)


def test_a_draft_is_the_last_token_and_masks() -> None:
    assert peek(begun("linear_spec", 5)) == draft([5, MASK, MASK, MASK], 3)


def test_the_adapter_is_on_in_drafts_and_off_in_verifies() -> None:
    state = begun("linear_spec", 5, lora=True)
    assert step(state, 6, 7, 8) == draft([5, MASK, MASK, MASK], 3, lora=True)
    assert peek(state) == verify([5, 6, 7, 8], 3)


def test_the_drafts_are_verified_from_the_same_position() -> None:
    state = begun("linear_spec", 5)
    step(state, 6, 7, 8)
    assert (state.output, state.cached) == ([5], 3)
    assert peek(state) == verify([5, 6, 7, 8], 3)


def test_rejected_drafts_are_replaced_by_the_verifier_s_token_and_lose_their_kv() -> None:
    state = begun("linear_spec", 5)
    step(state, 6, 7, 8)
    step(state, 6, 9, 20, 21, accepted=2)
    assert (state.output, state.logprobs) == ([5, 6, 9], logprobs(5, 6, 9))
    assert state.cached == 5
    assert peek(state) == draft([9, MASK, MASK, MASK], 5)


def test_a_draft_that_is_wrong_from_the_start_still_gives_one_token() -> None:
    state = begun("linear_spec", 5)
    step(state, 6, 7, 8)
    step(state, 9, 20, 21, 22, accepted=1)
    assert (state.output, state.cached) == ([5, 9], 4)
    assert peek(state) == draft([9, MASK, MASK, MASK], 4)


def test_a_block_accepted_whole_gives_a_bonus_token() -> None:
    state = begun("linear_spec", 5)
    step(state, 6, 7, 8)
    step(state, 6, 7, 8, 9, accepted=4)
    assert (state.output, state.logprobs, state.cached) == ([5, 6, 7, 8, 9], logprobs(5, 6, 7, 8, 9), 7)
    assert peek(state) == draft([9, MASK, MASK, MASK], 7)


def test_an_end_token_inside_the_accepted_tokens_cuts_them() -> None:
    state = begun("linear_spec", 5)
    cycle(state, 6, EOS, 7)
    assert (state.tokens(), state.logprobs, state.finish_reason) == ([5, 6, EOS], logprobs(5, 6, EOS), "stop")


@pytest.mark.parametrize(
    ("changes", "end", "output"),
    [({}, EOS, [5, 6, EOS]), ({"max_new_tokens": 3}, 9, [5, 6, 9]), ({"max_new_tokens": 2}, EOS, [5, 6])],
)
def test_acceptance_lengths_stop_where_the_output_stops_and_the_trace_goes_on(
    changes: dict[str, object], end: int, output: list[int]
) -> None:
    state = begun("linear_spec", 5, **changes)
    cycle(state, 6, end, 7, 8)
    assert (state.output, state.acceptance_lengths, state.trace) == (output, [len(output) - 1], [[1, 4]])


def test_acceptance_lengths_stop_at_a_stop_string() -> None:
    def after_seven(output: Sequence[int], _: int) -> int | None:
        return list(output).index(7) + 1 if 7 in output else None

    state = begun("linear_spec", 5, dataclasses.replace(CONTEXT, find_stop=after_seven))
    cycle(state, 6, 20)
    cycle(state, 21, 7, 8, 9)
    assert (state.output, state.acceptance_lengths, state.trace) == ([5, 6, 20, 21, 7], [2, 2], [[1, 2], [1, 4]])


def test_an_end_token_behind_the_accepted_tokens_does_not_count() -> None:
    state = begun("linear_spec", 5)
    step(state, 6, 7, 8)
    step(state, 9, EOS, EOS, EOS, accepted=1)
    assert (state.output, state.finish_reason) == ([5, 9], None)


def test_an_end_token_may_be_ignored() -> None:
    state = begun("linear_spec", EOS, ignore_eos=True)
    cycle(state, 6, EOS, 7)
    assert (state.output, state.finish_reason) == ([EOS, 6, EOS, 7], None)


def test_a_limit_inside_a_cycle_cuts_the_output_but_not_the_counts() -> None:
    state = begun("linear_spec", 5, max_new_tokens=3)
    cycle(state, 6, 7, 8, 9)
    assert (state.tokens(), state.logprobs, state.finish_reason) == ([5, 6, 7], logprobs(5, 6, 7), "length")
    assert (state.acceptance_lengths, state.trace) == ([2], [[1, 4]])


def test_nfe_counts_the_prefill_once_and_two_forwards_per_cycle() -> None:
    state = new_state("linear_spec", PROMPT, dataclasses.replace(CONTEXT, prefill_slice=1))
    step(state)
    step(state)
    step(state, 5)
    cycle(state, 6, 7)
    cycle(state, 8)
    assert state.forwards == {"prefill": 3, "decode": 0, "denoise": 0, "cache": 0, "draft": 2, "verify": 2}
    assert state.nfe(state.forwards) == 5


def test_the_trace_holds_draft_passes_and_accepted_tokens_of_every_cycle() -> None:
    state = begun("linear_spec", 5)
    cycle(state, 6, 7)
    cycle(state, 8)
    assert (state.trace, state.acceptance_lengths) == ([[1, 2], [1, 1]], [2, 1])


def test_a_threshold_drafts_in_several_passes_before_one_verify() -> None:
    state = begun("linear_spec", 5, threshold=0.8, lora=True)
    changes = {"selection": Commit(0.8, 1), "lora": True}
    first = step(state, 6, 7, 8, committed=[False, True, False])
    assert first == draft([5, MASK, MASK, MASK], 3, 0, **changes)
    assert step(state, 9, 10, committed=[True, False]) == draft([5, MASK, 7, MASK], 3, 1, **changes)
    assert step(state, 12) == draft([5, 9, 7, MASK], 3, 2, **changes)
    assert step(state, 9, 7, 12, 20, accepted=4) == verify([5, 9, 7, 12], 3)
    assert (state.trace, state.acceptance_lengths, state.nfe(state.forwards)) == ([[3, 4]], [4], 5)
    assert peek(state) == draft([20, MASK, MASK, MASK], 7, 0, **changes)


def test_no_threshold_is_one_draft_pass() -> None:
    state = begun("linear_spec", 5, threshold=None)
    assert step(state, 6, 7, 8) == draft([5, MASK, MASK, MASK], 3)
    assert peek(state).kind == "verify"


def test_a_block_of_one_has_a_draft_pass_without_rows() -> None:
    state = begun("linear_spec", 5, block_length=1)
    assert step(state) == draft([5], 3, selection=None)
    assert step(state, 6, accepted=1) == verify([5], 3)
    assert (state.output, state.trace) == ([5, 6], [[1, 1]])


def test_a_block_of_one_with_a_threshold_is_only_verified() -> None:
    state = begun("linear_spec", 5, block_length=1, threshold=0.8)
    assert step(state, 6, accepted=1) == verify([5], 3)
    assert (state.output, state.trace) == ([5, 6], [[0, 1]])


def test_at_a_temperature_the_verify_gets_the_distributions_of_its_own_drafts() -> None:
    state = begun("linear_spec", 5, temperature=1.0)
    for name in ("first", "second"):
        chunk = peek(state)
        assert chunk.keep_distribution
        drawn = sampled(6, 7, 8)
        drawn.distributions = [f"{name}{number}" for number in range(3)]
        state.advance(chunk, drawn)
        verified = step(state, 6, 7, 9, 20, accepted=3)
        assert verified.selection == Verify(drawn.distributions)
        assert verified.token_ids == [chunk.token_ids[0], 6, 7, 8]


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0.0},
        {"temperature": 1.0, "acceptance": "equality"},
        {"temperature": 1.0, "threshold": 0.8},
    ],
)
def test_greedy_equality_and_confident_drafts_are_accepted_by_equality(fields: dict[str, object]) -> None:
    state = begun("linear_spec", 5, **fields)
    assert not step(state, 6, 7, 8).keep_distribution
    assert peek(state).selection == Verify()


def test_the_output_with_its_last_token_is_history_for_a_repetition_penalty() -> None:
    state = begun("linear_spec", 5, repetition_penalty=1.1)
    cycle(state, 6, 7)
    history = [1, EOS, END_THINK, 5, 6, 7]
    assert step(state, 8, 8, 8).history == history
    assert peek(state).history == history


def test_thinking_over_the_budget_ends_with_the_cycle_and_only_once() -> None:
    state = begun("linear_spec", 5, max_thinking_tokens=3, **THINK)
    cycle(state, 6, 7)
    assert state.output == [5, 6, 7]
    cycle(state, 8, 9)
    assert state.output == [5, 6, 7, 8, END_THINK]
    assert len(state.logprobs) == 5
    assert (state.cached, state.acceptance_lengths) == (7, [2, 2])
    assert peek(state) == draft([END_THINK, MASK, MASK, MASK], 7)
    cycle(state, 10, 12)
    assert state.output == [5, 6, 7, 8, END_THINK, 10, 12]


def test_thinking_that_ends_in_the_cycle_is_left_alone() -> None:
    state = begun("linear_spec", 5, max_thinking_tokens=1, **THINK)
    cycle(state, 6, END_THINK, 7)
    assert state.output == [5, 6, END_THINK, 7]


def test_an_answer_that_ends_in_the_cycle_gets_no_end_of_thinking() -> None:
    state = begun("linear_spec", 5, max_thinking_tokens=1, **THINK)
    cycle(state, 6, EOS)
    assert (state.tokens(), state.finish_reason) == ([5, 6, EOS], "stop")


def test_an_ignored_end_token_does_not_keep_thinking_from_ending() -> None:
    state = begun("linear_spec", 5, max_thinking_tokens=1, ignore_eos=True, **THINK)
    cycle(state, 6, EOS)
    assert (state.output, state.finish_reason) == ([5, 6, END_THINK], None)
