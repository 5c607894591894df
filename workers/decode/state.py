"""What all decoding modes share: prefill in slices, the output so far, the end conditions and the count of forwards.

A state never calls the model: it hands out Chunks and takes back Sampled.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

from trimode.core.continuation import Continuation
from trimode.core.errors import GenerationError
from trimode.core.protocol import FORWARD_KINDS, DecodeParams, ModeDefaults, Top
from trimode.workers.decode.chunk import Chunk, Confidence, Sampled
from trimode.workers.decode.context import DecodeContext, WidthChooser
from trimode.workers.decode.passes import BlockPass


class DecodeState(ABC):
    """One request in one mode. `output` grows until `finish_reason` is set. Then `tokens()` is the answer."""

    defaults: ClassVar[ModeDefaults]
    """The mode's block_length and threshold for requests that give none."""
    causal_prompt: ClassVar[bool] = True
    """True if the prompt is prefilled with causal attention, False if with full attention."""
    goes_on: ClassVar[bool] = False
    """True if the mode can take a request over at a boundary, see `_restore`. Its prompt is causal."""
    caches_output: ClassVar[bool] = False
    """True if at a boundary the KV of all of the output is kept, False if that of the last token is not."""

    def __init__(self, prompt_ids: Sequence[int], params: DecodeParams, context: DecodeContext) -> None:
        self.prompt_ids = list(prompt_ids)
        self.params = params
        self.context = context
        ends = () if params.ignore_eos else context.eos_token_ids
        self.end_token_ids = frozenset((*ends, *params.stop_token_ids))
        """Tokens that end the output."""
        self.output: list[int] = []
        self.logprobs: list[float] = []
        self.top_logprobs: list[Top] = []
        """As long as the output if alternatives are asked for, else empty."""
        self.prompt_logprobs: list[float] = []
        """Of each token of the prompt but the first, if they are asked for; so is the next."""
        self.prompt_top_logprobs: list[Top] = []
        self.cached = 0
        """Number of tokens whose KV is kept: prompt first, then output."""
        self.finish_reason: str | None = None
        self.forwards = dict.fromkeys(FORWARD_KINDS, 0)
        """Forwards that this request alone needs, by kind: those that ran and those in `forwards_saved`."""
        self.forwards_saved = 0
        """Prefill forwards that did not run, because the KV of the prompt's beginning was there already."""
        self.chooser: WidthChooser | None = None
        """Chooses the width of each cycle; None in modes whose cycles have no choice."""
        self.passes: list[BlockPass] | None = None
        """Passes over blocks that nobody has taken yet; None = nobody watches."""
        self._forced_logprob = 0.0
        """Log-probability of an end of thinking forced after the last causal pass; 0 unless logprobs are asked for."""
        self._searched = 0
        self._known = self.prompt_ids
        """What is prefilled: the prompt, and of a continued request also its output."""
        self.continued: Continuation | None = None
        """Where the request began here; None = at its prompt."""

    @staticmethod
    @abstractmethod
    def nfe(forwards: Mapping[str, int]) -> int:
        """Returns the number of function evaluations as the reference counts them, from the forwards by kind."""

    @abstractmethod
    def _next_chunk(self) -> Chunk:
        """Returns the next chunk once the prompt is prefilled."""

    @abstractmethod
    def _advance(self, chunk: Chunk, sampled: Sampled) -> None:
        """Takes in the result of a chunk from `_next_chunk`."""

    @abstractmethod
    def _begin(self, token: int, logprob: float, top: Top = ()) -> None:
        """Takes in the token sampled from the prompt's last logits."""

    @property
    def trace(self) -> list[object] | None:
        """The mode's record of its forwards; None if the mode keeps none."""
        return self._trace_from(0)

    def _trace_from(self, start: int) -> list[object] | None:  # noqa: ARG002 -- for modes that keep one
        """Returns the entries of the trace from number `start` on; None if the mode keeps none."""
        return None

    def _forwards_since(self) -> Mapping[str, int]:
        """Returns the forwards by kind since the last boundary."""
        return {}

    def boundary(self, digest: str, start: int = 0, trace_start: int = 0) -> Continuation | None:
        """Returns the request at its last boundary; None if it has no output yet, has ended, or cannot be continued.

        Args:
            digest: of the request.
            start: number of tokens that the caller has already.
            trace_start: number of entries of the trace that the caller has already.
        """
        if not self.output or self.finish_reason is not None or not self.goes_on or self.params.rates_more:
            return None
        since = self._forwards_since()
        return Continuation(
            digest=digest,
            token_ids=self.output[start:],
            logprobs=self.logprobs[start:] if self.params.logprobs else None,
            forwards={kind: count - since.get(kind, 0) for kind, count in self.forwards.items()},
            forwards_saved=self.forwards_saved,
            trace=self._trace_from(trace_start),
            continuations=self.continuations,
            start=start,
            trace_start=trace_start,
        )

    @property
    def continuations(self) -> int:
        """How often the request was continued by another worker."""
        return 0 if self.continued is None else self.continued.continuations + 1

    def continue_from(self, continuation: Continuation) -> None:
        """Takes over what was generated. Its KV is computed again, by forwards that are not the request's.

        Must be called before anything else. GenerationError (400) if nothing can follow the continuation.
        """
        size = len(continuation.token_ids)
        if continuation.start or not 0 < size < self.params.max_new_tokens or not self.goes_on:
            raise GenerationError(f"continuation: got {size} tokens; valid: all tokens of a request that goes on")
        self.continued = continuation
        self.output = list(continuation.token_ids)
        self.logprobs = list(continuation.logprobs or [0.0] * size)
        self.forwards |= continuation.forwards
        self.forwards_saved = continuation.forwards_saved
        self._searched = size
        self._known = self.prompt_ids + (self.output if self.caches_output else self.output[:-1])
        self._restore(continuation)

    def _restore(self, continuation: Continuation) -> None:  # noqa: B027 -- most modes have no more than their output
        """Takes over what the mode has at a boundary beside the output, which is there already."""

    @property
    def acceptance_lengths(self) -> list[int]:
        """Number of tokens emitted by each verify; empty if the mode does not verify."""
        return []

    @property
    def widths(self) -> Mapping[int, int]:
        """Number of cycles by width; empty if the mode does not choose widths."""
        return {}

    @property
    def fixed_tokens(self) -> Mapping[int, float]:
        """Tokens that the same time would have given by fixed width; empty if the mode does not choose widths."""
        return {}

    @property
    def max_kv_tokens(self) -> int:
        """Upper bound on the KV rows that this request writes, including rows that are not kept."""
        return len(self.prompt_ids) + self.params.max_new_tokens + 2 * self.params.block_length

    def skip_prefix(self, num_tokens: int) -> None:
        """Starts behind the first tokens of the prompt, whose KV an earlier request has computed.

        The saved forwards count all the same: what a request costs must not depend on what ran before it.
        """
        self.cached = num_tokens
        if self.continued is not None:
            return
        size, total = self.context.prefill_slice, len(self.prompt_ids)
        self.forwards_saved = -(-total // size) - -(-(total - num_tokens) // size)
        self.forwards["prefill"] += self.forwards_saved

    def next_chunk(self) -> Chunk:
        """Returns what to run next. Must not be called once `finish_reason` is set."""
        return self._prefill(self.cached) if self.cached < len(self._known) else self._next_chunk()

    def following(self, chunk: Chunk) -> Chunk | None:
        """Returns the chunk after `chunk`, which runs now, if it is known up to the tokens that `chunk` samples.

        In their place stand markers, see `chunk.deferred`. The result is what `next_chunk` will return after `advance`,
        with the tokens in place of the markers, unless the request ends by them.

        Args:
            chunk: what `next_chunk` would return now, also with markers in it.

        Returns:
            None if more than tokens is unknown: what is committed or accepted, a token that may be forced, the past of
            a penalty. None also if the request surely ends.
        """
        end = chunk.position + len(chunk.token_ids)
        if chunk.kind == "prefill" and end < len(self._known):
            return self._prefill(end)
        if chunk.again:
            return None
        known = not self.params.sees_past and not self._still_thinking()
        return self._following(chunk, end) if known else None

    def _following(self, chunk: Chunk, end: int) -> Chunk | None:  # noqa: ARG002 -- for modes that can say it
        """Returns `following` of a chunk that is not followed by a slice of the prompt. `end` is where it ends."""
        return None

    def _prefill(self, start: int) -> Chunk:
        known, again = self._known, self.continued is not None
        end = min(start + self.context.prefill_slice, len(known))
        is_last = end == len(known)
        rated = self.params.prompt_logprobs
        rows: Sequence[int] = (end - start - 1,) if is_last and not again else ()
        return Chunk(
            kind="prefill",
            token_ids=known[start:end],
            position=start,
            causal=self.causal_prompt,
            keep_kv=True,
            rows=rows if rated is None else range(end - start),
            again=again,
            purpose="decode",
            confidence=Confidence.RAW,
            sample_offset=1,
            history=self._history(),
            num_prompt_history=self._num_prompt_history,
            forced_token=self._forced_token() if is_last else None,
            targets=() if rated is None else known[start + 1 : end + 1],
            num_top=max(rated or 0, self.params.num_top if rows else 0),
        )

    def advance(self, chunk: Chunk, sampled: Sampled) -> None:
        """Takes in the result of `chunk` and counts its forward."""
        self.forwards[chunk.kind] += not chunk.again
        if sampled.forced_logprobs:
            self._forced_logprob = sampled.forced_logprobs[-1]
        if chunk.kind != "prefill":
            self._advance(chunk, sampled)
            return
        self.cached += len(chunk.token_ids)
        num_targets = len(chunk.targets)
        self.prompt_logprobs += sampled.logprobs[:num_targets]
        if self.params.prompt_logprobs:
            self.prompt_top_logprobs += [top[: self.params.prompt_logprobs] for top in sampled.tops[:num_targets]]
        if self.cached < len(self._known) or chunk.again:
            return
        if self.params.max_new_tokens:
            top = sampled.tops[-1][: self.params.num_top] if self.params.num_top else ()
            self._begin(sampled.tokens[-1], sampled.logprobs[-1], top)
        else:
            self.finish_reason = "length"

    def tokens(self) -> list[int]:
        """Returns the generated tokens, at most max_new_tokens of them."""
        return self.output[: self.params.max_new_tokens]

    def _history(self, block: Sequence[int] = ()) -> list[int] | None:
        """Returns the tokens that count as seen by penalties: prompt, output and the known ones of the block."""
        if self.params.sees_past:
            return [*self.prompt_ids, *self.output, *block]
        return [] if self.params.logit_bias else None

    @property
    def _num_prompt_history(self) -> int:
        """How many tokens of `_history` are the prompt's."""
        return len(self.prompt_ids) if self.params.sees_past else 0

    def _emit(self, tokens: Sequence[int], logprobs: Sequence[float], tops: Sequence[Top] = ()) -> None:
        """Appends to the output. At an end token, stop string or max_new_tokens, cuts it and sets `finish_reason`."""
        start = len(self.output)
        self.output += tokens
        self.logprobs += logprobs
        if self.params.num_top:
            self.top_logprobs += tops
        keep = self._first_end(start)
        if self.context.find_stop is not None:
            stop = self.context.find_stop(self.output if keep is None else self.output[:keep], self._searched)
            keep = stop if stop is not None else keep
        self._searched = len(self.output)
        limit = self.params.max_new_tokens
        if keep is not None and keep <= limit:
            del self.output[keep:], self.logprobs[keep:], self.top_logprobs[keep:]
            self.finish_reason = "stop"
        elif len(self.output) >= limit:
            del self.output[limit:], self.logprobs[limit:], self.top_logprobs[limit:]
            self.finish_reason = "length"

    def _first_end(self, start: int) -> int | None:
        for place, token in enumerate(self.output[start:], start=start + 1):
            if token in self.end_token_ids:
                return place
        return None

    def _still_thinking(self) -> bool:
        """True if a thinking budget is set and the output holds no end-of-thinking token yet."""
        end = self.params.end_think_token_id
        return self.params.max_thinking_tokens is not None and end is not None and end not in self.output

    def _forced_token(self) -> int | None:
        """Returns the end of thinking if it may be forced and its log-probability will be asked for, else None."""
        return self.params.end_think_token_id if self.params.logprobs and self._still_thinking() else None
