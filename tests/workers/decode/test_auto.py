"""The mode auto gives ar's tokens, whatever widths its cycles have."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trimode.tests.fakes.forward import CONTEXT, END_THINK, EOS, FakeModel, begun, filled, new_state, peek, step
from trimode.tests.fakes.widths import ScriptedChooser
from trimode.workers.decode.chunk import deferred
from trimode.workers.decode.context import DecodeContext
from trimode.workers.decode.passes import TokenState
from trimode.workers.decode.state import DecodeState

SMALL = st.integers(1, 14)


def scripted(*widths: int) -> tuple[DecodeContext, ScriptedChooser]:
    """A context whose requests get these widths in turn, again and again."""
    chooser = ScriptedChooser(itertools.cycle(widths))
    return dataclasses.replace(CONTEXT, prefill_slice=3, new_chooser=lambda _: chooser), chooser


def decoded(
    mode: str, prompt: Sequence[int], context: DecodeContext, model: FakeModel, **params: object
) -> DecodeState:
    state = new_state(mode, prompt, context, **params)
    model.run(state)
    return state


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_auto_gives_what_ar_gives_whatever_the_widths_are(data: st.DataObject) -> None:
    context, chooser = scripted(*data.draw(st.lists(st.integers(1, 8), min_size=1, max_size=9)))
    chooser.plain_steps = data.draw(st.integers(1, 4))
    tokens = st.lists(SMALL, min_size=1, max_size=13)
    causal, drafts = data.draw(tokens), data.draw(tokens)
    confidences = data.draw(st.lists(st.floats(0, 1), min_size=1, max_size=7))
    prompt = data.draw(st.lists(SMALL, min_size=1, max_size=7))
    params = {
        "max_new_tokens": data.draw(st.integers(1, 20)),
        "temperature": data.draw(st.sampled_from([0.0, 1.0])),
        "repetition_penalty": data.draw(st.sampled_from([1.0, 1.3])),
        "max_thinking_tokens": data.draw(st.none() | st.integers(0, 12)),
        "end_think_token_id": END_THINK,
        "ignore_eos": data.draw(st.booleans()),
        "stop_token_ids": data.draw(st.sampled_from([(), (5,)])),
        "logprobs": True,
    }
    spec = {"block_length": data.draw(st.integers(1, 8)), "threshold": data.draw(st.sampled_from([0.0, 0.5]))}
    ar = decoded("ar", prompt, context, FakeModel(causal, drafts, confidences), **params)
    model = FakeModel(causal, drafts, confidences)
    auto = decoded("auto", prompt, context, model, **params, **spec)
    assert (auto.tokens(), auto.logprobs, auto.finish_reason) == (ar.tokens(), ar.logprobs, ar.finish_reason)
    kept = model.kv[: auto.cached]  # a draft's tokens behind a stop token are in the cache and not in the output
    assert len(kept) == auto.cached
    assert all(known == token for known, token in zip(kept, prompt + auto.output, strict=False))
    check_ledger(auto, chooser, model)


def check_ledger(state: DecodeState, chooser: ScriptedChooser, model: FakeModel) -> None:
    """What the parts of the ledger say of each other, whatever the widths are."""
    forwards, trace = state.forwards, state.trace
    assert {kind: count for kind, count in forwards.items() if count} == Counter(chunk.kind for chunk in model.chunks)
    assert state.nfe(forwards) == 1 + forwards["decode"] + forwards["draft"] + forwards["verify"]
    assert trace is not None
    rows = [row for row in trace if isinstance(row, list)]
    assert state.widths == Counter(width for width, _, _ in rows)
    assert forwards["decode"] == state.widths.get(1, 0)
    assert forwards["draft"] == sum(passes for _, passes, _ in rows)
    assert forwards["verify"] == len(state.acceptance_lengths) == sum(width > 1 for width, _, _ in rows)
    assert len(state.output) == 1 + forwards["decode"] + sum(state.acceptance_lengths)
    heard = [[width] if width > 1 else [1] * emitted for width, _, emitted in chooser.heard]
    assert list(itertools.chain(*heard)) == [width for width, _, _ in rows]
    assert sum(emitted for _, _, emitted in chooser.heard) == len(state.output) - 1


def test_each_cycle_asks_for_its_width() -> None:
    context, _ = scripted(4, 1, 2)
    state = begun("auto", 20, context, block_length=8)
    assert peek(state).token_ids == [20, 100, 100, 100]
    step(state, 21, 22, 23)
    assert step(state, 21, 30, 0, 0, accepted=2).token_ids == [20, 21, 22, 23]
    assert step(state, 31).kind == "decode"
    assert peek(state).token_ids == [31, 100]
    assert state.trace == [[4, 1, 2], [1, 0, 1]]
    assert state.widths == {1: 1, 4: 1}
    assert state.acceptance_lengths == [2]


@pytest.mark.parametrize(("left", "width"), [(9, 8), (3, 3), (1, 1)])
def test_no_cycle_is_wider_than_what_the_request_lacks(left: int, width: int) -> None:
    context, _ = scripted(100)
    assert len(peek(begun("auto", 20, context, block_length=8, max_new_tokens=left + 1)).token_ids) == width


def test_without_a_chooser_every_cycle_has_the_full_width() -> None:
    assert len(peek(begun("auto", 20, block_length=5)).token_ids) == 5


def test_a_chunk_that_was_put_off_does_not_ask_again() -> None:
    context, _ = scripted(2, 3)
    state = begun("auto", 20, context, block_length=8)
    assert peek(state) == peek(state)


def test_draft_and_verify_draw_with_the_numbers_of_ar() -> None:
    state = begun("auto", 20, temperature=1.0)
    ar = begun("ar", 20, temperature=1.0)
    assert step(state, 21, 22, 23).purpose == peek(state).purpose == peek(ar).purpose
    assert peek(state).selection is not None


def test_the_width_of_the_next_cycle_is_known_while_a_step_of_ar_runs() -> None:
    context, _ = scripted(1, 3, 1, 1)
    state = new_state("auto", (1, 2), context)
    following = state.following(peek(state))
    assert following is not None
    assert (following.kind, following.token_ids) == ("decode", [deferred(0)])
    step(state, 20)
    assert filled(following, [20]) == peek(state)
    following = state.following(peek(state))
    assert following is not None
    assert (following.kind, following.token_ids) == ("draft", [deferred(0), 100, 100])
    step(state, 21)
    verify = state.following(filled(following, [21]))
    assert verify is not None
    assert verify.token_ids == [21, deferred(0), deferred(1)]
    step(state, 22, 23)
    assert state.following(peek(state)) is None


def test_a_choice_of_width_one_holds_for_some_steps_of_ar() -> None:
    context, chooser = scripted(1, 4)
    chooser.plain_steps = 3
    state = begun("auto", 20, context, block_length=8)
    for token in (21, 22, 23):
        chunk = peek(state)
        assert chunk.kind == "decode"
        following = state.following(chunk)
        assert following is not None
        step(state, token)
        assert filled(following, [token]) == peek(state)
    assert peek(state).token_ids == [23, 100, 100, 100]
    assert chooser.heard == [(1, 0, 3)]


def test_a_forced_end_of_thinking_stands_where_ar_puts_it() -> None:
    state = begun("auto", 20, max_thinking_tokens=2, end_think_token_id=END_THINK)
    step(state, 21, 22, 23)
    step(state, 21, 22, 23, 24, accepted=4)
    assert state.output == [20, 21, END_THINK]
    assert state.trace == [[4, 1, 2]]
    assert state.cached == len(state.prompt_ids) + 2


def test_watchers_see_every_cycle_with_its_number() -> None:
    context, _ = scripted(1, 3)
    state = new_state("auto", (1, 2), context)
    state.passes = []
    step(state, 20)
    step(state, 21)
    step(state, 22, 9)
    step(state, 22, 23, 0, accepted=2)
    shown = [(one.block, one.number, one.start, [token.token for token in one.tokens]) for one in state.passes]
    assert shown == [(0, 0, 0, [20]), (0, 1, 1, [21]), (1, 1, 2, [22, 9]), (1, 2, 2, [22, 23, 9])]
    assert [token.state for token in state.passes[-1].tokens] == [
        TokenState.VERIFIED, TokenState.COMMITTED, TokenState.STRUCK
    ]  # fmt: skip


def test_an_end_token_inside_a_cycle_ends_the_output() -> None:
    state = begun("auto", 20)
    step(state, 21, EOS, 23)
    step(state, 21, EOS, 23, 24, accepted=4)
    assert (state.output, state.finish_reason, state.acceptance_lengths) == ([20, 21, EOS], "stop", [2])
