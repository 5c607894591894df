"""The ar mode by hand: one causal forward per token."""

from __future__ import annotations

import dataclasses

from trimode.tests.fakes.forward import (
    CONTEXT,
    END_THINK,
    EOS,
    PROMPT,
    begun,
    logprobs,
    new_state,
    peek,
    step,
)
from trimode.workers.decode.chunk import Chunk


def decode(token: int, position: int) -> Chunk:
    return Chunk("decode", [token], position, causal=True, keep_kv=True, rows=(0,), purpose="decode", sample_offset=1)


def test_the_prompt_gives_the_first_token() -> None:
    state = begun("ar", 5)
    assert (state.output, state.logprobs, state.cached) == ([5], logprobs(5), 3)


def test_each_forward_feeds_the_last_token_and_keeps_its_kv() -> None:
    state = begun("ar", 5)
    assert step(state, 6) == decode(5, 3)
    assert step(state, 7) == decode(6, 4)
    assert peek(state) == decode(7, 5)
    assert (state.output, state.logprobs, state.cached) == ([5, 6, 7], logprobs(5, 6, 7), 5)


def test_the_adapter_stays_off() -> None:
    assert peek(begun("ar", 5, lora=True)) == decode(5, 3)


def test_an_end_token_ends_the_output() -> None:
    state = begun("ar", 5)
    step(state, EOS)
    assert (state.tokens(), state.finish_reason) == ([5, EOS], "stop")


def test_an_end_token_may_be_ignored() -> None:
    state = begun("ar", EOS, ignore_eos=True)
    step(state, EOS)
    assert (state.output, state.finish_reason) == ([EOS, EOS], None)


def test_the_limit_ends_the_output_without_another_forward() -> None:
    state = begun("ar", 5, max_new_tokens=3)
    step(state, 6)
    step(state, 7)
    assert (state.tokens(), state.finish_reason, state.forwards["decode"]) == ([5, 6, 7], "length", 2)


def test_nfe_is_the_number_of_tokens_however_the_prompt_is_sliced() -> None:
    state = new_state("ar", PROMPT, dataclasses.replace(CONTEXT, prefill_slice=1))
    step(state)
    step(state)
    assert state.nfe(state.forwards) == 1
    step(state, 5)
    step(state, 6)
    step(state, 7)
    assert state.forwards["prefill"] == 3
    assert state.nfe(state.forwards) == 3 == len(state.output)


def test_no_trace_and_no_acceptance_lengths() -> None:
    state = begun("ar", 5)
    step(state, 6)
    assert (state.trace, state.acceptance_lengths) == (None, [])


def test_the_output_is_history_for_a_repetition_penalty() -> None:
    state = begun("ar", 5, repetition_penalty=1.1)
    step(state, 6)
    assert peek(state).history == [1, EOS, END_THINK, 5, 6]


def test_thinking_ends_at_the_budget_and_only_once() -> None:
    state = begun("ar", 5, max_thinking_tokens=2, end_think_token_id=END_THINK)
    step(state, 6)
    step(state, 7)
    assert step(state, 8) == decode(END_THINK, 5)
    step(state, 9)
    assert state.output == [5, 6, END_THINK, 8, 9]
    assert len(state.logprobs) == 5


def test_a_budget_of_zero_replaces_the_first_token() -> None:
    assert begun("ar", 5, max_thinking_tokens=0, end_think_token_id=END_THINK).output == [END_THINK]


def test_thinking_that_ended_by_itself_is_left_alone() -> None:
    state = begun("ar", END_THINK, max_thinking_tokens=2, end_think_token_id=END_THINK)
    for token in (6, 7, 8):
        step(state, token)
    assert state.output == [END_THINK, 6, 7, 8]


def test_the_budget_replaces_an_end_token_too() -> None:
    state = begun("ar", 5, max_thinking_tokens=1, end_think_token_id=END_THINK)
    step(state, EOS)
    assert (state.output, state.finish_reason) == ([5, END_THINK], None)
