"""Which tokens end an output: the checkpoint's unless the request ignores them, and the request's own in any case."""

from __future__ import annotations

import pytest
from trimode.core.protocol import Mode
from trimode.tests.fakes.forward import CONTEXT, EOS, FakeModel, new_state
from trimode.workers.decode.state import DecodeState

STOP = 12


def decoded(mode: str, tokens: list[int], **fields: object) -> DecodeState:
    """A finished state whose causal rows give `tokens` in turn, and whose drafts are these tokens too."""
    state = new_state(mode, [1, 2], CONTEXT, max_new_tokens=16, **fields)
    FakeModel(causal=tokens, drafts=tokens, confidences=[0.99]).run(state)
    return state


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("ignore_eos", [False, True])
def test_a_stop_id_of_the_request_ends_the_output(mode: str, ignore_eos: bool) -> None:
    state = decoded(mode, [STOP], stop_token_ids=(STOP,), ignore_eos=ignore_eos)
    assert (state.tokens(), state.finish_reason) == ([STOP], "stop")


@pytest.mark.parametrize("mode", list(Mode))
def test_the_end_token_is_ignored_on_request(mode: str) -> None:
    assert decoded(mode, [EOS], ignore_eos=True).tokens() == [EOS] * 16
    assert decoded(mode, [EOS], ignore_eos=True, stop_token_ids=(STOP,)).tokens() == [EOS] * 16
    assert decoded(mode, [EOS], stop_token_ids=(STOP,)).tokens() == [EOS]


@pytest.mark.parametrize("mode", list(Mode))
def test_an_end_token_that_is_named_as_a_stop_id_ends_the_output(mode: str) -> None:
    assert decoded(mode, [EOS], ignore_eos=True, stop_token_ids=(EOS,)).tokens() == [EOS]
