"""The `dlm` mode: block diffusion. Denoises a block of masks until all are committed, then caches the block causally.

Source: `generate` with causal context in the released remote code.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from trimode.core.continuation import Continuation
from trimode.core.errors import GenerationError
from trimode.core.protocol import MODE_DEFAULTS, DecodeParams, Mode, Top
from trimode.workers.decode.chunk import Chunk, Commit, Sampled
from trimode.workers.decode.context import DecodeContext
from trimode.workers.decode.masked_block import MaskedBlock
from trimode.workers.decode.passes import BlockPass, TokenState
from trimode.workers.decode.state import DecodeState


class DlmState(DecodeState):
    """Denoises one block after another. A block's first token is sampled by the causal pass before it."""

    defaults = MODE_DEFAULTS[Mode.dlm]
    goes_on = True
    caches_output = True

    def __init__(self, prompt_ids: Sequence[int], params: DecodeParams, context: DecodeContext) -> None:
        super().__init__(prompt_ids, params, context)
        self._block = MaskedBlock(0, 0.0, 1, context.mask_token_id)
        self._quota: list[int] = []
        """Number of positions to commit in each pass when there is no threshold."""
        self._commits: list[int] = []
        """Number of positions committed in each pass over the current block."""
        self._denoising = False
        self._forced_at = 0
        """Position in the current block of a forced end of thinking, if it is not the first."""
        self._trace: list[object] = []
        self._next = (0, 0.0, 0.0)
        """What the last causal pass gave: the next token, its log-probability, and that of a forced one."""

    @staticmethod
    def nfe(forwards: Mapping[str, int]) -> int:
        """Returns the denoising passes plus one caching pass per block. Prefill is not counted."""
        return forwards["denoise"] + forwards["cache"]

    def _trace_from(self, start: int) -> list[object] | None:
        """Number of commits in each denoising pass, one list per finished block."""
        return self._trace[start:]

    def _forwards_since(self) -> Mapping[str, int]:
        return {"denoise": len(self._commits)}

    def boundary(self, digest: str, start: int = 0, trace_start: int = 0) -> Continuation | None:
        """Returns the request after its last finished block."""
        at = super().boundary(digest, start, trace_start)
        token, logprob, forced = self._next
        if at is None or not self.params.logprobs:
            return at and dataclasses.replace(at, next_token=token)
        return dataclasses.replace(at, next_token=token, next_logprob=logprob, forced_logprob=forced)

    def _restore(self, continuation: Continuation) -> None:
        if continuation.next_token is None:
            raise GenerationError("continuation: got no next_token; valid in dlm: one")
        self._trace = list(continuation.trace or ())
        self._forced_logprob = continuation.forced_logprob
        self._begin(continuation.next_token, continuation.next_logprob)

    def _begin(self, token: int, logprob: float, top: Top = ()) -> None:
        self._next = (token, logprob, self._forced_logprob)
        length = self.params.block_length
        self._block = MaskedBlock(token, logprob, length, self.context.mask_token_id, top)
        self._forced_at = 0
        self._force_end_of_thinking()
        each, more = divmod(len(self._block.masked), length)
        self._quota = [each + (step < more) for step in range(length)]
        self._commits = []
        self._denoising = bool(self._block.masked)

    def _force_end_of_thinking(self) -> None:
        budget, done = self.params.max_thinking_tokens, len(self.output)
        if budget is None or done + self.params.block_length <= budget or not self._still_thinking():
            return
        assert self.params.end_think_token_id is not None
        self._forced_at = max(0, budget - done)
        # Inside the block no pass has predicted the token yet: the causal pass over the finished block does.
        logprob = 0.0 if self._forced_at else self._forced_logprob
        self._block.force(self._forced_at, self.params.end_think_token_id, logprob)

    def _next_chunk(self) -> Chunk:
        if not self._denoising:
            forced = self._forced_token()
            last = len(self._block) - 1
            return Chunk(
                kind="cache",
                token_ids=list(self._block.tokens),
                position=self.cached,
                causal=True,
                keep_kv=True,
                rows=(self._forced_at - 1, last) if forced is not None and self._forced_at else (last,),
                purpose="decode",
                sample_offset=1,
                history=self._history(self._block.known()),
                num_prompt_history=self._num_prompt_history,
                forced_token=forced,
                num_top=self.params.num_top,
            )
        threshold = self.params.threshold
        step = len(self._commits)
        return Chunk(
            kind="denoise",
            token_ids=list(self._block.tokens),
            position=self.cached,
            causal=False,
            keep_kv=False,
            rows=tuple(self._block.masked),
            purpose=f"denoise{step}",
            selection=Commit(math.inf, self._quota[step]) if threshold is None else Commit(threshold, 1),
            history=self._history(self._block.known()),
            num_prompt_history=self._num_prompt_history,
            num_top=self.params.num_top,
        )

    def _advance(self, chunk: Chunk, sampled: Sampled) -> None:
        if chunk.kind == "denoise":
            self._commits.append(self._block.commit(sampled))
            if self.passes is not None:
                shown = self._block.shown(TokenState.COMMITTED)
                self.passes.append(BlockPass(len(self._trace), len(self._commits), len(self.output), shown))
            is_last = len(self._commits) == len(self._block)
            self._denoising = bool(self._block.masked) and not is_last and not self._ended_before_mask()
            return
        if self._forced_at and sampled.forced_logprobs:
            self._block.logprobs[self._forced_at] = sampled.forced_logprobs[0]
            self._block.tops[self._forced_at] = sampled.tops[0] if sampled.tops else ()
        self.cached += len(self._block)
        self._trace.append(self._commits)
        self._emit(self._block.tokens, self._block.logprobs, self._block.tops)
        if self.finish_reason is None:
            self._begin(sampled.tokens[-1], sampled.logprobs[-1], sampled.tops[-1] if sampled.tops else ())

    def _ended_before_mask(self) -> bool:
        """True if the block holds an end token with no mask before it. What follows is cut, so denoising can stop."""
        return any(token in self.end_token_ids for token in self._block.tokens[: self._block.masked[0]])
