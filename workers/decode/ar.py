"""The `ar` mode: decodes left to right, one token per forward.

Source: `ar_generate` in the released remote code.
"""

from __future__ import annotations

from collections.abc import Mapping

from trimode.core.protocol import MODE_DEFAULTS, Mode, Top
from trimode.workers.decode.chunk import Chunk, Sampled, deferred
from trimode.workers.decode.passes import one_token
from trimode.workers.decode.state import DecodeState


class ArState(DecodeState):
    """Emits one token per causal forward until an end condition holds."""

    defaults = MODE_DEFAULTS[Mode.ar]
    goes_on = True

    @staticmethod
    def nfe(forwards: Mapping[str, int]) -> int:
        """Returns one per generated token. The prompt's last logits give the first, so all of prefill counts as one."""
        return forwards["decode"] + min(forwards["prefill"], 1)

    def _begin(self, token: int, logprob: float, top: Top = ()) -> None:
        self._take(token, logprob, top)

    def _next_chunk(self) -> Chunk:
        return self._decode(self.output[-1], self.cached)

    def _following(self, chunk: Chunk, end: int) -> Chunk | None:
        # Prefill and decode give one token, by their last row.
        return (
            self._decode(deferred(len(chunk.rows) - 1), end)
            if len(self.output) + 1 < self.params.max_new_tokens
            else None
        )

    def _decode(self, token: int, position: int) -> Chunk:
        return Chunk(
            kind="decode",
            token_ids=[token],
            position=position,
            causal=True,
            keep_kv=True,
            rows=(0,),
            purpose="decode",
            sample_offset=1,
            history=self._history(),
            num_prompt_history=self._num_prompt_history,
            forced_token=self._forced_token(),
            num_top=self.params.num_top,
        )

    def _advance(self, chunk: Chunk, sampled: Sampled) -> None:  # noqa: ARG002 -- this mode has one kind of chunk
        self.cached += 1
        self._take(sampled.tokens[0], sampled.logprobs[0], sampled.tops[0] if sampled.tops else ())

    def _take(self, token: int, logprob: float, top: Top) -> None:
        token, logprob = self._or_end_of_thinking(token, logprob)
        if self.passes is not None:
            place = len(self.output)
            self.passes.append(one_token(place, 1, place, token, logprob))
        self._emit([token], [logprob], [top])

    def _or_end_of_thinking(self, token: int, logprob: float) -> tuple[int, float]:
        """Returns the next token and its log-probability: what was sampled, or the end of thinking if that is due."""
        budget = self.params.max_thinking_tokens
        if budget is None or len(self.output) < budget or not self._still_thinking():
            return token, logprob
        assert self.params.end_think_token_id is not None
        return self.params.end_think_token_id, self._forced_logprob
