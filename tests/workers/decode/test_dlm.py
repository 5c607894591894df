"""The dlm mode by hand: denoise a block against the cached prefix, then cache it causally."""

from __future__ import annotations

import dataclasses
import math

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
    step,
)
from trimode.workers.decode.chunk import Chunk, Commit, Confidence
from trimode.workers.decode.state import DecodeState

THINK = {"end_think_token_id": END_THINK}


def denoise(tokens: list[int], position: int, number: int, commit: Commit) -> Chunk:
    """A pass over a block: full attention, nothing kept, logits of the masked positions only."""
    return Chunk(
        "denoise",
        tokens,
        position,
        causal=False,
        keep_kv=False,
        rows=tuple(index for index, token in enumerate(tokens) if token == MASK),
        purpose=f"denoise{number}",
        selection=commit,
        confidence=Confidence.RAW,
    )


def cache(tokens: list[int], position: int) -> Chunk:
    last = (len(tokens) - 1,)
    return Chunk("cache", tokens, position, causal=True, keep_kv=True, rows=last, purpose="decode", sample_offset=1)


def whole_block(state: DecodeState, seed: int) -> None:
    """Denoises the current block in one pass, with no end token, and caches it; `seed` starts the next block."""
    step(state, *[50] * len(peek(state).rows))
    step(state, seed)


def test_a_block_is_the_prompt_s_token_and_masks() -> None:
    state = begun("dlm", 5)
    assert peek(state) == denoise([5, MASK, MASK, MASK], 3, 0, Commit(0.9, 1))
    assert (state.output, state.cached) == ([], 3)


def test_committed_tokens_stay_and_the_rest_is_asked_again() -> None:
    state = begun("dlm", 5, threshold=0.7)
    step(state, 6, 7, 8, committed=[False, True, False])
    assert step(state, 9, 10, committed=[False, True]) == denoise([5, MASK, 7, MASK], 3, 1, Commit(0.7, 1))
    assert step(state, 12) == denoise([5, MASK, 7, 10], 3, 2, Commit(0.7, 1))
    assert peek(state) == cache([5, 12, 7, 10], 3)


def test_a_block_is_emitted_when_it_is_cached_and_its_last_logits_seed_the_next() -> None:
    state = begun("dlm", 5)
    step(state, 6, 7, 8)
    assert state.output == []
    assert step(state, 9) == cache([5, 6, 7, 8], 3)
    assert (state.output, state.logprobs, state.cached) == ([5, 6, 7, 8], logprobs(5, 6, 7, 8), 7)
    assert peek(state) == denoise([9, MASK, MASK, MASK], 7, 0, Commit(0.9, 1))


def test_without_a_threshold_each_pass_commits_one_and_a_block_costs_its_length() -> None:
    state = begun("dlm", 5, threshold=None)
    for number, left in enumerate((3, 2, 1)):
        chunk = step(state, *range(6, 6 + left), committed=[True] + [False] * (left - 1))
        assert chunk.selection == Commit(math.inf, 1)
        assert chunk.purpose == f"denoise{number}"
    step(state, 9)
    assert state.nfe(state.forwards) == 4
    assert state.trace == [[1, 1, 1]]


def test_a_threshold_of_zero_is_not_the_same_as_none() -> None:
    assert peek(begun("dlm", 5, threshold=0.0)).selection == Commit(0.0, 1)


def test_a_position_that_stays_masked_costs_at_most_as_many_passes_as_the_block_has_tokens() -> None:
    state = begun("dlm", 5, block_length=3)
    for number in range(3):
        nothing = [False, False]
        assert step(state, MASK, MASK, committed=nothing) == denoise([5, MASK, MASK], 3, number, Commit(0.9, 1))
    assert peek(state) == cache([5, MASK, MASK], 3)


def test_an_end_token_with_no_mask_before_it_ends_denoising() -> None:
    state = begun("dlm", 5)
    step(state, EOS, 7, 8, committed=[True, False, False])
    assert step(state, 9) == cache([5, EOS, MASK, MASK], 3)
    assert (state.tokens(), state.logprobs, state.finish_reason) == ([5, EOS], logprobs(5, EOS), "stop")


def test_an_end_token_behind_a_mask_does_not_end_denoising() -> None:
    state = begun("dlm", 5)
    step(state, 6, EOS, 8, committed=[False, True, False])
    assert peek(state).kind == "denoise"
    step(state, 6, 8, committed=[True, False])
    assert peek(state) == cache([5, 6, EOS, MASK], 3)


def test_a_block_that_starts_with_an_end_token_is_denoised_once() -> None:
    state = begun("dlm", EOS)
    assert step(state, 6, 7, 8, committed=[False, True, False]).kind == "denoise"
    assert step(state, 9).kind == "cache"
    assert (state.tokens(), state.finish_reason, state.nfe(state.forwards)) == ([EOS], "stop", 2)


def test_an_ignored_end_token_does_not_end_denoising() -> None:
    state = begun("dlm", 5, ignore_eos=True)
    step(state, EOS, 7, 8, committed=[True, False, False])
    assert peek(state) == denoise([5, EOS, MASK, MASK], 3, 1, Commit(0.9, 1))
    step(state, 7, 8)
    step(state, 9)
    assert (state.output, state.finish_reason) == ([5, EOS, 7, 8], None)


def test_a_limit_inside_a_block_cuts_the_block_after_it_ran_whole() -> None:
    state = begun("dlm", 5, max_new_tokens=6)
    whole_block(state, 9)
    assert step(state, 20, 21, 22) == denoise([9, MASK, MASK, MASK], 7, 0, Commit(0.9, 1))
    assert step(state, 23) == cache([9, 20, 21, 22], 7)
    assert (state.tokens(), state.finish_reason) == ([5, 50, 50, 50, 9, 20], "length")
    assert (state.forwards["cache"], state.trace) == (2, [[3], [3]])


def test_a_limit_at_the_end_of_a_block_starts_no_other_block() -> None:
    state = begun("dlm", 5, max_new_tokens=4)
    whole_block(state, 9)
    assert (state.tokens(), state.finish_reason, state.forwards["cache"]) == ([5, 50, 50, 50], "length", 1)


def test_a_block_of_one_is_only_cached() -> None:
    state = begun("dlm", 5, block_length=1)
    assert step(state, 6) == cache([5], 3)
    assert step(state, 7) == cache([6], 4)
    assert (state.output, state.trace, state.nfe(state.forwards)) == ([5, 6], [[], []], 2)


def test_nfe_counts_denoising_and_caching_but_no_prefill() -> None:
    state = new_state("dlm", PROMPT, dataclasses.replace(CONTEXT, prefill_slice=2))
    step(state)
    step(state, 5)
    step(state, 6, 7, 8, committed=[True, False, False])
    step(state, 7, 8)
    step(state, 9)
    whole_block(state, 9)
    assert state.forwards == {"prefill": 2, "decode": 0, "denoise": 3, "cache": 2, "draft": 0, "verify": 0}
    assert state.nfe(state.forwards) == 5


def test_the_trace_holds_the_commits_of_every_pass_of_finished_blocks() -> None:
    state = begun("dlm", 5)
    step(state, 6, 7, 8, committed=[True, False, True])
    step(state, 7)
    assert state.trace == []
    step(state, 9)
    whole_block(state, 9)
    step(state, 6, 7, 8, committed=[True, False, False])
    assert (state.trace, state.acceptance_lengths) == ([[2, 1], [3]], [])


def test_the_adapter_stays_off() -> None:
    state = begun("dlm", 5, lora=True)
    assert not step(state, 6, 7, 8).lora
    assert not peek(state).lora


def test_no_distribution_is_kept_at_a_temperature() -> None:
    assert not peek(begun("dlm", 5, temperature=1.0)).keep_distribution


def test_known_tokens_are_history_for_a_repetition_penalty() -> None:
    state = begun("dlm", 5, repetition_penalty=1.1)
    whole_block(state, 9)
    finished = [1, EOS, END_THINK, 5, 50, 50, 50]
    assert step(state, 6, 7, 8, committed=[False, True, False]).history == [*finished, 9]
    assert step(state, 6, 8).history == [*finished, 9, 7]
    assert peek(state).history == [*finished, 9, 6, 7, 8]


@pytest.mark.parametrize("threshold", [None, 0.9])
def test_thinking_ends_at_the_budget_inside_the_block_that_reaches_it(threshold: float | None) -> None:
    state = begun("dlm", 5, max_thinking_tokens=6, threshold=threshold, **THINK)
    assert peek(state).token_ids == [5, MASK, MASK, MASK]
    whole_block(state, 9) if threshold else fixed_quota_block(state, 9)
    chunk = step(state, 6, 7, committed=[True, False])
    assert (chunk.token_ids, chunk.rows) == ([9, MASK, END_THINK, MASK], (1, 3))
    step(state, 7)
    assert step(state, 10) == cache([9, 6, END_THINK, 7], 7)
    assert (state.trace or [])[1] == [1, 1]
    assert peek(state).token_ids == [10, MASK, MASK, MASK]


def fixed_quota_block(state: DecodeState, seed: int) -> None:
    for left in (3, 2, 1):
        step(state, *[50] * left, committed=[True] + [False] * (left - 1))
    step(state, seed)


def test_a_budget_that_the_block_just_fills_waits_for_the_next_block() -> None:
    state = begun("dlm", 5, max_thinking_tokens=4, **THINK)
    assert peek(state).token_ids == [5, MASK, MASK, MASK]
    whole_block(state, 9)
    assert peek(state).token_ids == [END_THINK, MASK, MASK, MASK]


@pytest.mark.parametrize("budget", [0, 1, 3])
def test_a_budget_inside_the_first_block(budget: int) -> None:
    tokens = [5, MASK, MASK, MASK]
    tokens[budget] = END_THINK
    assert peek(begun("dlm", 5, max_thinking_tokens=budget, **THINK)).token_ids == tokens


def test_thinking_that_ended_in_an_earlier_block_is_left_alone() -> None:
    state = begun("dlm", 5, max_thinking_tokens=6, **THINK)
    step(state, 6, END_THINK, 8)
    step(state, 9)
    assert peek(state).token_ids == [9, MASK, MASK, MASK]


def test_a_forced_token_can_leave_nothing_to_denoise() -> None:
    state = begun("dlm", 5, block_length=2, max_thinking_tokens=1, **THINK)
    assert step(state, 6) == cache([5, END_THINK], 3)
    assert (state.trace, state.nfe(state.forwards)) == ([[]], 1)
