"""Decoding states for tests, and results of forwards that no model has computed."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

from trimode.core.protocol import DecodeParams
from trimode.workers.decode.chunk import Chunk, Commit, Sampled, Verify, deferred_row
from trimode.workers.decode.context import DecodeContext
from trimode.workers.decode.registry import MODES
from trimode.workers.decode.state import DecodeState

MASK = 100
EOS = 11
END_THINK = 13
PROMPT = (1, EOS, END_THINK)
"""Holds an end token and an end of thinking: only generated tokens may count."""
CONTEXT = DecodeContext(MASK, frozenset({EOS}), prefill_slice=512)


def new_state(
    mode: str, prompt: Sequence[int] = PROMPT, context: DecodeContext = CONTEXT, /, **changes: object
) -> DecodeState:
    """A state before its prompt is prefilled. Blocks have four tokens unless `changes` to the parameters say more."""
    fields: dict[str, object] = {
        "mode": mode,
        "max_new_tokens": 100,
        "block_length": 1 if mode == "ar" else 4,
        "threshold": MODES[mode].defaults.threshold,
    }
    return MODES[mode](prompt, DecodeParams(**fields | changes), context)  # type: ignore[arg-type]


def begun(mode: str, first: int, context: DecodeContext = CONTEXT, /, **changes: object) -> DecodeState:
    """A state after its prompt, whose last logits gave the token `first`."""
    state = new_state(mode, PROMPT, context, **changes)
    step(state, first)
    return state


def step(state: DecodeState, *tokens: int, committed: Sequence[bool] | None = None, accepted: int = 0) -> Chunk:
    """Answers the next chunk with `tokens`, all committed unless `committed` says which; returns the chunk."""
    chunk = peek(state)
    state.advance(chunk, sampled(*tokens, committed=committed, accepted=accepted))
    return chunk


def peek(state: DecodeState) -> Chunk:
    """The next chunk, with the kinds of sequences that a Chunk written by hand has."""
    chunk = state.next_chunk()
    return dataclasses.replace(chunk, token_ids=list(chunk.token_ids), rows=tuple(chunk.rows))


def filled(chunk: Chunk, tokens: Sequence[int]) -> Chunk:
    """The chunk with the samples of the one before it in place of its markers."""
    ids = [tokens[deferred_row(token)] if token < 0 else token for token in chunk.token_ids]
    return dataclasses.replace(chunk, token_ids=ids)


def sampled(*tokens: int, committed: Sequence[bool] | None = None, accepted: int = 0) -> Sampled:
    """A result whose log-probabilities tell which token they belong to: -8 for token 8."""
    result = Sampled(list(tokens), [0.5] * len(tokens), logprobs(*tokens))
    result.committed = [True] * len(tokens) if committed is None else list(committed)
    result.accepted = accepted
    return result


def logprobs(*tokens: int) -> list[float]:
    """The log-probabilities that `sampled` gives to these tokens."""
    return [-float(token) for token in tokens]


@dataclass
class FakeModel:
    """Answers any chunk and keeps the tokens whose KV a real cache would hold.

    A causal row's token is a function of all tokens up to that row. Rows with full attention get tokens in turn.
    """

    causal: Sequence[int]
    drafts: Sequence[int]
    confidences: Sequence[float]
    kv: list[int] = field(default_factory=list)
    chunks: list[Chunk] = field(default_factory=list)
    num_followed: int = 0
    """Chunks whose following one was known beforehand."""

    def run(self, state: DecodeState) -> None:
        """Decodes until the state has finished."""
        drafts, confidences = itertools.cycle(self.drafts), itertools.cycle(self.confidences)
        while state.finish_reason is None:
            assert len(self.chunks) < 1000, "the state does not finish"
            chunk = state.next_chunk()
            # The engine may put a chunk off and ask again in its next step.
            assert chunk == state.next_chunk()
            self.chunks.append(chunk)
            before = self.kv[: chunk.position]
            assert len(before) == chunk.position == state.cached
            seen = before + list(chunk.token_ids)
            tokens = [
                self._next(seen[: chunk.position + row + 1]) if chunk.causal else next(drafts) for row in chunk.rows
            ]
            if chunk.keep_kv:
                self.kv = seen
            following = state.following(chunk)
            result = _decide(chunk, tokens, [next(confidences) for _ in tokens])
            state.advance(chunk, result)
            if following is not None:
                self.num_followed += 1
                assert state.finish_reason is not None or filled(following, tokens) == state.next_chunk()

    def _next(self, seen: Sequence[int]) -> int:
        return self.causal[sum((index + 1) * token for index, token in enumerate(seen)) % len(self.causal)]


def _decide(chunk: Chunk, tokens: list[int], confidences: list[float]) -> Sampled:
    """What the sampler's kernels decide about these tokens."""
    result = Sampled(tokens, confidences, logprobs(*tokens))
    if chunk.forced_token is not None:
        result.forced_logprobs = logprobs(*[chunk.forced_token] * len(tokens))
    rule = chunk.selection
    if isinstance(rule, Commit):
        best = sorted(range(len(tokens)), key=lambda row: -confidences[row])[: rule.num_best]
        result.committed = [row in best or confidences[row] >= rule.threshold for row in range(len(tokens))]
    elif isinstance(rule, Verify):
        matches = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(tokens, chunk.token_ids[1:], strict=False))
        result.accepted = len(list(matches)) + 1
    return result
