"""What all modes share: prefill in slices, end conditions, stop strings, limits, counts of forwards."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest
from trimode.core.protocol import FORWARD_KINDS, Mode
from trimode.tests.fakes.forward import CONTEXT, EOS, begun, logprobs, new_state, peek, sampled, step
from trimode.workers.decode.ar import ArState
from trimode.workers.decode.chunk import Chunk

SLICED = dataclasses.replace(CONTEXT, prefill_slice=4)


def prefill(token_ids: list[int], position: int, *rows: int) -> Chunk:
    return Chunk(
        "prefill", token_ids, position, causal=True, keep_kv=True, rows=rows, purpose="decode", sample_offset=1
    )


@pytest.mark.parametrize("mode", list(Mode))
def test_a_prompt_is_prefilled_in_slices_and_only_the_last_wants_logits(mode: str) -> None:
    state = new_state(mode, range(20, 30), SLICED, lora=True)
    assert step(state) == prefill([20, 21, 22, 23], 0)
    assert step(state) == prefill([24, 25, 26, 27], 4)
    assert state.output == []
    assert step(state, 5) == prefill([28, 29], 8, 1)
    assert state.cached == 10
    assert peek(state).kind != "prefill"
    assert state.forwards["prefill"] == 3


def test_a_prompt_of_whole_slices_has_no_empty_slice() -> None:
    state = new_state("ar", range(20, 28), SLICED)
    step(state)
    assert step(state, 5) == prefill([24, 25, 26, 27], 4, 3)
    assert state.output == [5]


def test_prefill_starts_behind_a_prefix_that_is_cached_already() -> None:
    state = new_state("ar", range(20, 30), SLICED)
    state.cached = 3
    assert step(state) == prefill([23, 24, 25, 26], 3)
    assert step(state, 5) == prefill([27, 28, 29], 7, 2)


def test_a_mode_may_prefill_with_full_attention() -> None:
    class FullPrompt(ArState):
        causal_prompt = False

    causal = new_state("ar")
    state = FullPrompt(causal.prompt_ids, causal.params, causal.context)
    assert peek(state) == dataclasses.replace(peek(causal), causal=False)


def test_the_prompt_is_history_for_a_repetition_penalty() -> None:
    state = new_state("ar", [20, 21], repetition_penalty=1.1)
    assert peek(state).history == [20, 21]
    assert peek(new_state("ar")).history is None


def test_forwards_are_counted_by_kind() -> None:
    state = begun("linear_spec", 5)
    assert state.forwards == dict.fromkeys(FORWARD_KINDS, 0) | {"prefill": 1}
    step(state, 6, 7, 8)
    step(state, 1, 2, 3, 4, accepted=1)
    step(state, 6, 7, 8)
    assert state.forwards == dict.fromkeys(FORWARD_KINDS, 0) | {"prefill": 1, "draft": 2, "verify": 1}


@pytest.mark.parametrize("mode", list(Mode))
def test_the_token_after_the_prompt_may_be_the_whole_answer(mode: str) -> None:
    state = begun(mode, 5, max_new_tokens=1)
    while state.finish_reason is None:
        step(state, 6, 6, 6, 6, accepted=1)
    assert (state.tokens(), state.logprobs, state.finish_reason) == ([5], logprobs(5), "length")


def test_an_end_token_on_the_last_allowed_place_is_a_stop() -> None:
    state = begun("ar", 5, max_new_tokens=2)
    step(state, EOS)
    assert (state.tokens(), state.finish_reason) == ([5, EOS], "stop")


@pytest.mark.parametrize("end", [EOS, 40])
def test_stop_ids_end_like_the_end_token_and_stay_in_the_output(end: int) -> None:
    context = dataclasses.replace(CONTEXT, eos_token_ids=frozenset({EOS, 40}))
    state = begun("linear_spec", 5, context)
    step(state, 6, end, 8)
    step(state, 6, end, 8, 9, accepted=4)
    assert (state.tokens(), state.logprobs, state.finish_reason) == ([5, 6, end], logprobs(5, 6, end), "stop")


def test_the_first_of_several_end_tokens_counts() -> None:
    state = begun("dlm", 5)
    step(state, EOS, 6, EOS)
    step(state, 7)
    assert state.tokens() == [5, EOS]


class StopFinder:
    """Finds token 40 and keeps it; notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[list[int], int]] = []

    def __call__(self, output: Sequence[int], searched: int) -> int | None:
        self.asked.append((list(output), searched))
        return output.index(40) + 1 if 40 in output else None


def test_a_stop_string_cuts_the_output_and_every_token_is_searched_once() -> None:
    finder = StopFinder()
    state = begun("linear_spec", 5, dataclasses.replace(CONTEXT, find_stop=finder))
    step(state, 6, 7, 8)
    step(state, 6, 7, 9, 0, accepted=3)
    step(state, 40, 41, 42)
    step(state, 40, 41, 42, 43, accepted=4)
    assert finder.asked == [([5], 0), ([5, 6, 7, 9], 1), ([5, 6, 7, 9, 40, 41, 42, 43], 4)]
    assert (state.tokens(), state.finish_reason) == ([5, 6, 7, 9, 40], "stop")
    assert state.logprobs == logprobs(5, 6, 7, 9, 40)


def test_a_stop_string_before_an_end_token_wins() -> None:
    finder = StopFinder()
    state = begun("dlm", 5, dataclasses.replace(CONTEXT, find_stop=finder))
    step(state, 40, EOS, 6)
    step(state, 7)
    assert state.tokens() == [5, 40]


def test_a_stop_string_is_not_searched_behind_an_end_token() -> None:
    finder = StopFinder()
    state = begun("dlm", 5, dataclasses.replace(CONTEXT, find_stop=finder))
    step(state, EOS, 40, 6)
    step(state, 7)
    assert finder.asked == [([5, EOS], 0)]
    assert (state.tokens(), state.finish_reason) == ([5, EOS], "stop")


def test_a_stop_string_ends_a_request_that_ignores_end_tokens() -> None:
    finder = StopFinder()
    state = begun("ar", EOS, dataclasses.replace(CONTEXT, find_stop=finder), ignore_eos=True)
    step(state, 40)
    assert (state.tokens(), state.finish_reason) == ([EOS, 40], "stop")


@pytest.mark.parametrize("end", [EOS, 40])
def test_an_end_behind_the_limit_is_no_stop(end: int) -> None:
    state = begun("dlm", 5, dataclasses.replace(CONTEXT, find_stop=StopFinder()), max_new_tokens=2)
    step(state, 6, end, 7)
    step(state, 8)
    assert (state.tokens(), state.logprobs, state.finish_reason) == ([5, 6], logprobs(5, 6), "length")


def test_tokens_never_exceed_the_limit_even_before_the_end() -> None:
    state = begun("ar", 5, max_new_tokens=2)
    state.output = [5, 6, 7]
    assert state.tokens() == [5, 6]


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("fields", [{"max_thinking_tokens": 0}, {"end_think_token_id": 13}])
def test_a_thinking_budget_needs_both_the_number_and_the_token(mode: str, fields: dict[str, int]) -> None:
    state = begun(mode, 5, max_new_tokens=4, **fields)
    while state.finish_reason is None:
        count = len(peek(state).rows)
        step(state, *[6] * count, accepted=count)
    assert state.tokens() == [5, 6, 6, 6]


def test_a_chunk_does_not_change_when_the_state_moves_on() -> None:
    state = begun("dlm", 5, repetition_penalty=1.1)
    chunk = state.next_chunk()
    before = (list(chunk.token_ids), list(chunk.rows), list(chunk.history or ()))
    state.advance(chunk, sampled(6, 7, 8))
    step(state, 9)
    assert (list(chunk.token_ids), list(chunk.rows), list(chunk.history or ())) == before
