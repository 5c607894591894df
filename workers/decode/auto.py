"""The `auto` mode: ar's tokens, by cycles of linear_spec whose width is chosen anew for each, or by steps of ar.

The tokens do not depend on the widths, at any temperature: all of them are samples of a causal pass, drawn with ar's
random numbers. A draft draws with the number that the token at its place is drawn with, so both are often equal
(common random numbers, see docs/decoding.md).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import cast

from trimode.core.continuation import Continuation
from trimode.core.protocol import MODE_DEFAULTS, DecodeParams, Mode, Top
from trimode.workers.decode.ar import ArState
from trimode.workers.decode.chunk import Chunk, Sampled, deferred
from trimode.workers.decode.context import DecodeContext
from trimode.workers.decode.linear_spec import LinearSpecState, emitted_lengths
from trimode.workers.decode.masked_block import MaskedBlock
from trimode.workers.decode.passes import one_token


class AutoState(LinearSpecState, ArState):
    """Repeats cycles. A cycle of width 1 is a step of ar, a wider one is a draft and a verify of linear_spec."""

    defaults = MODE_DEFAULTS[Mode.auto]
    verify_purpose = _draft_purpose = "decode"
    """All draw with the random numbers of ar."""

    def __init__(self, prompt_ids: Sequence[int], params: DecodeParams, context: DecodeContext) -> None:
        super().__init__(prompt_ids, params, context)
        if context.new_chooser is not None:
            self.chooser = context.new_chooser(params.block_length)
        self._width: int | None = None
        """Of the cycle that runs; None between two cycles, before the width of the next is chosen."""
        self._next_width: int | None = None
        """Of the cycle after the one that runs, if that had to be known already."""
        self._plain_left = 0
        """Steps of ar that follow the one that runs by the same choice."""
        self._plain_from = 0
        """Length of the output when that choice was made."""
        self._widths: list[int] = []
        """Of all finished cycles."""

    @staticmethod
    def nfe(forwards: Mapping[str, int]) -> int:
        """Returns decode, draft and verify forwards plus one for the prefill, as in ar and linear_spec."""
        return LinearSpecState.nfe(forwards) + forwards["decode"]

    def _trace_from(self, start: int) -> list[object] | None:
        """One [width, draft passes, accepted tokens] per cycle, as it ran: the last may go past the output's end."""
        cycles = zip(self._widths[start:], self._cycles[start:], strict=True)
        return [[width, passes, accepted] for width, (passes, accepted) in cycles]

    def _restore(self, continuation: Continuation) -> None:
        for width, passes, accepted in cast("Iterable[tuple[int, int, int]]", continuation.trace):
            self._widths.append(width)
            self._cycles.append((passes, accepted))
        self._draft_after(self.output[-1])

    @property
    def acceptance_lengths(self) -> list[int]:
        """Number of tokens emitted by each verify. The prompt and the steps of ar gave the other tokens."""
        lengths = emitted_lengths([accepted for _, accepted in self._cycles], len(self.output) - 1)
        return [length for length, width in zip(lengths, self._widths, strict=True) if width > 1]

    @property
    def widths(self) -> Mapping[int, int]:
        """Number of finished cycles by width, narrow ones first."""
        return dict(sorted(Counter(self._widths).items()))

    @property
    def fixed_tokens(self) -> Mapping[int, float]:
        """By width: tokens that the request would have got in the same time, had all requests always had it."""
        return {} if self.chooser is None else self.chooser.fixed_tokens

    @property
    def _by_rejection(self) -> bool:
        """Never True: by rejection sampling the tokens of a seed would depend on the widths."""
        return False

    def _begin(self, token: int, logprob: float, top: Top = ()) -> None:
        token, logprob = self._or_end_of_thinking(token, logprob)
        super()._begin(token, logprob, top)

    def _draft_after(self, seed: int) -> None:
        width, self._next_width = self._next_width, None
        self._begin_cycle(width, seed)

    def _begin_cycle(self, width: int | None, seed: int) -> None:
        self._width = width
        self._passes = 0
        if width == 1:  # a step of ar has no block: to make one per token costs time
            self._plain_left = 0 if self.chooser is None else self.chooser.plain_steps - 1
            self._plain_from = len(self.output)
        elif width is not None:
            super()._draft_after(seed)

    def _new_block(self, seed: int) -> MaskedBlock:
        return MaskedBlock(seed, 0.0, self._width or 1, self.context.mask_token_id)

    def _ask(self, left: int) -> int:
        """Returns the width of a cycle that begins when the output lacks `left` tokens to its limit."""
        most = min(self.params.block_length, left)
        return most if self.chooser is None else self.chooser.choose(most)

    def _next_chunk(self) -> Chunk:
        if self._width is None:
            self._begin_cycle(self._ask(self.params.max_new_tokens - len(self.output)), self.output[-1])
        return self._decode(self.output[-1], self.cached) if self._width == 1 else super()._next_chunk()

    def _following(self, chunk: Chunk, end: int) -> Chunk | None:
        if chunk.kind == "draft":
            return super()._following(chunk, end)
        left = self.params.max_new_tokens - len(self.output) - 1
        if chunk.kind == "verify" or not left:
            return None
        seed = deferred(len(chunk.rows) - 1)
        if chunk.kind == "decode" and self._plain_left:
            return self._decode(seed, end)
        if self._next_width is None:
            self._next_width = self._ask(left)
        if self._next_width == 1:
            return self._decode(seed, end)
        return self._draft(MaskedBlock(seed, 0.0, self._next_width, self.context.mask_token_id), end)

    def _advance(self, chunk: Chunk, sampled: Sampled) -> None:
        if chunk.kind == "decode":
            self._step(sampled)
            return
        if chunk.kind == "draft":
            super()._advance(chunk, sampled)
            return
        width, before = len(chunk.token_ids), len(self.output)
        self._widths.append(width)
        super()._advance(chunk, sampled)
        if self.chooser is not None:
            emitted, ended = len(self.output) - before, self.finish_reason == "stop"
            self.chooser.took(width, sampled.accepted - 1, emitted, ended=ended)

    def _step(self, sampled: Sampled) -> None:
        """Takes in the token of a cycle of width 1."""
        token, logprob = self._or_end_of_thinking(sampled.tokens[0], sampled.logprobs[0])
        if self.passes is not None:
            self.passes.append(one_token(len(self._cycles), 1, len(self.output), token, logprob))
        self.cached += 1
        self._widths.append(1)
        self._cycles.append((0, 1))
        self._emit([token], [logprob], sampled.tops[:1])
        if self._plain_left and self.finish_reason is None:
            self._plain_left -= 1
            return
        if self.chooser is not None:
            emitted = len(self.output) - self._plain_from
            self.chooser.took(1, 0, emitted, ended=self.finish_reason == "stop")
        if self.finish_reason is None:
            self._draft_after(token)

    def _emitted(self, sampled: Sampled) -> tuple[list[int], list[float]]:
        """Returns what a verify emits. Where ar would force the end of thinking, it does so and ends the cycle."""
        tokens, logprobs = sampled.tokens[: sampled.accepted], sampled.logprobs[: sampled.accepted]
        budget, end = self.params.max_thinking_tokens, self.params.end_think_token_id
        if budget is None or end is None or not self._still_thinking():
            return tokens, logprobs
        at = max(0, budget - len(self.output))
        if at < len(tokens) and end not in tokens[:at]:
            forced = sampled.forced_logprobs[at] if sampled.forced_logprobs else 0.0
            return [*tokens[:at], end], [*logprobs[:at], forced]
        return tokens, logprobs
