"""The `linear_spec` mode: drafts a block by diffusion and verifies it with a causal pass over the same KV cache.

Source: `linear_spec_generate` in the released remote code, with two differences. The output is cut at max_new_tokens,
although the last cycle runs whole. A forced end of thinking appears in the output, so it is forced only once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import cast

from trimode.core.continuation import Continuation
from trimode.core.protocol import MODE_DEFAULTS, DecodeParams, Mode, Top
from trimode.workers.decode.chunk import Chunk, Commit, Confidence, Sampled, Verify, deferred
from trimode.workers.decode.context import DecodeContext
from trimode.workers.decode.masked_block import MaskedBlock
from trimode.workers.decode.passes import BlockPass, BlockToken, TokenState, one_token
from trimode.workers.decode.state import DecodeState


def emitted_lengths(accepted: Sequence[int], num_tokens: int) -> list[int]:
    """Returns how many of the accepted tokens of each cycle are among the first `num_tokens` accepted ones.

    A cycle runs whole, so its last tokens may lie past an end token or the limit, where the output is cut.
    """
    if sum(accepted) <= num_tokens:
        return list(accepted)
    lengths = []
    for count in accepted:
        lengths.append(min(count, num_tokens))
        num_tokens -= lengths[-1]
    return lengths


class LinearSpecState(DecodeState):
    """Repeats draft and verify. Every emitted token was sampled by a causal pass or forced."""

    defaults = MODE_DEFAULTS[Mode.linear_spec]
    goes_on = True
    verify_purpose = "verify"
    """What the random numbers of a verify are for, see `Chunk.purpose`."""

    def __init__(self, prompt_ids: Sequence[int], params: DecodeParams, context: DecodeContext) -> None:
        super().__init__(prompt_ids, params, context)
        self._block = MaskedBlock(0, 0.0, 1, context.mask_token_id)
        self._proposals: list[object] = []
        self._passes = 0
        """Draft passes over the current block."""
        self._drafting = True
        self._cycles: list[tuple[int, int]] = []

    @staticmethod
    def nfe(forwards: Mapping[str, int]) -> int:
        """Returns draft and verify forwards plus one for the prefill, which the reference counts in this mode only."""
        return min(forwards["prefill"], 1) + forwards["draft"] + forwards["verify"]

    def _trace_from(self, start: int) -> list[object] | None:
        """One [draft passes, accepted tokens] per cycle, as it ran: the last may go past the end of the output."""
        return [list(cycle) for cycle in self._cycles[start:]]

    def _forwards_since(self) -> Mapping[str, int]:
        return {"draft": self._passes}

    def _restore(self, continuation: Continuation) -> None:
        self._cycles = [
            (passes, accepted) for passes, accepted in cast("Iterable[tuple[int, int]]", continuation.trace)
        ]
        self._draft_after(self.output[-1])

    @property
    def acceptance_lengths(self) -> list[int]:
        """Number of tokens emitted by each verify. The prompt gave the first token of the output."""
        return emitted_lengths([accepted for _, accepted in self._cycles], len(self.output) - 1)

    @property
    def _by_rejection(self) -> bool:
        """True if drafts are accepted by rejection sampling, which needs the distribution of every draft.

        With a threshold, a draft is committed because it was confident, so its distribution is not the one it was
        sampled from. Such drafts are accepted by equality, which is exact for any draft.
        """
        params = self.params
        return params.temperature > 0 and params.acceptance == "rejection" and not params.threshold

    def _begin(self, token: int, logprob: float, top: Top = ()) -> None:
        if self.passes is not None:
            self.passes.append(one_token(0, 0, 0, token, logprob))
        self._emit([token], [logprob], [top])
        self._draft_after(token)

    def _draft_after(self, seed: int) -> None:
        self._block = self._new_block(seed)
        self._proposals = []
        self._passes = 0
        self._drafting = self._drafts(self._block)

    def _new_block(self, seed: int) -> MaskedBlock:
        return MaskedBlock(seed, 0.0, self.params.block_length, self.context.mask_token_id)

    def _next_chunk(self) -> Chunk:
        if self._drafting:
            return self._draft(self._block, self.cached)
        return self._verify(self._block.tokens, self._proposals if self._by_rejection else None)

    def _following(self, chunk: Chunk, end: int) -> Chunk | None:
        params = self.params
        if chunk.kind == "prefill":
            block = self._new_block(deferred(len(chunk.rows) - 1))
            runs = self._drafts(block) and params.max_new_tokens > 1
            return self._draft(block, end) if runs else None
        # One pass commits the whole block. The distributions that rejection sampling needs are not known yet.
        if chunk.kind == "draft" and not params.threshold and not self._by_rejection:
            drafts = [deferred(row) for row in range(len(chunk.rows))]
            return self._verify([self._block.tokens[0], *drafts], None)
        return None

    def _drafts(self, block: MaskedBlock) -> bool:
        """Returns True if a new block is drafted. Without a threshold the reference does so even if it has no mask."""
        return bool(block.masked) or not self.params.threshold

    def _verify(self, tokens: Sequence[int], proposals: list[object] | None) -> Chunk:
        return Chunk(
            kind="verify",
            token_ids=list(tokens),
            position=self.cached,
            causal=True,
            keep_kv=True,
            rows=range(len(tokens)),
            purpose=self.verify_purpose,
            selection=Verify(proposals),
            sample_offset=1,
            history=self._history(),
            num_prompt_history=self._num_prompt_history,
            forced_token=self._forced_token(),
            num_top=self.params.num_top,
        )

    @property
    def _draft_purpose(self) -> str:
        """What the random numbers of the next draft are for."""
        return f"draft{self._passes}"

    def _draft(self, block: MaskedBlock, position: int) -> Chunk:
        return Chunk(
            kind="draft",
            token_ids=list(block.tokens),
            position=position,
            causal=False,
            keep_kv=False,
            rows=tuple(block.masked),
            purpose=self._draft_purpose,
            lora=self.params.lora,
            selection=Commit(self.params.threshold or 0.0, 1) if block.masked else None,
            confidence=Confidence.TEMPERED,
            keep_distribution=self._by_rejection,
            history=self._history(block.known()[1:]),  # the seed is in the output
            num_prompt_history=self._num_prompt_history,
        )

    def _advance(self, chunk: Chunk, sampled: Sampled) -> None:
        if chunk.kind == "draft":
            self._block.commit(sampled)
            self._proposals = sampled.distributions
            self._passes += 1
            self._drafting = bool(self._block.masked)
            if self.passes is not None:
                drafted = self._block.shown(TokenState.DRAFT)[1:]
                self.passes.append(BlockPass(len(self._cycles), self._passes, len(self.output), drafted))
        else:
            self._accept(sampled)

    def _accept(self, sampled: Sampled) -> None:
        tokens, logprobs = self._emitted(sampled)
        self.cached += len(tokens)
        self._cycles.append((self._passes, len(tokens)))
        if self.passes is not None:
            self.passes.append(self._verified(tokens, sampled.confidences))
        self._emit(tokens, logprobs, sampled.tops[: len(tokens)])
        if self.finish_reason is None:
            self._draft_after(tokens[-1])

    def _emitted(self, sampled: Sampled) -> tuple[list[int], list[float]]:
        """Returns the tokens that a verify emits and their log-probabilities. The last may be a forced one."""
        accepted = sampled.accepted
        tokens, logprobs = sampled.tokens[:accepted], sampled.logprobs[:accepted]
        budget = self.params.max_thinking_tokens
        end = self.params.end_think_token_id
        over = budget is not None and len(self.output) + accepted > budget and self._still_thinking()
        ended = any(token in self.end_token_ids for token in tokens)
        if over and end is not None and end not in tokens and not ended:
            tokens[-1] = end
            logprobs[-1] = sampled.forced_logprobs[accepted - 1] if sampled.forced_logprobs else 0.0
        return tokens, logprobs

    def _verified(self, tokens: Sequence[int], confidences: Sequence[float]) -> BlockPass:
        """Returns what a verify made of its drafts: the accepted ones, the token of its own, the rejected ones."""
        number, own = self._passes + 1, len(tokens) - 1
        shown = [
            BlockToken(token, TokenState.COMMITTED if row == own else TokenState.VERIFIED, confidences[row], number)
            for row, token in enumerate(tokens)
        ]
        block = self._block
        shown += [
            BlockToken(block.tokens[at], TokenState.STRUCK, block.confidences[at], block.set_by[at])
            for at in range(len(tokens), len(block))
        ]
        return BlockPass(len(self._cycles) - 1, number, len(self.output), shown)
