"""What all decoding modes share: prompt prefill in slices, the output so far, the end conditions and the ledger.

A state never calls the model: it hands out Chunks and takes back Sampled. Knows no tensors, pages or other requests.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from trimode.workers.decode.chunk import Chunk, Confidence, Sampled
from trimode.workers.protocol import FORWARD_KINDS, DecodeParams, ModeDefaults

StopFinder = Callable[[Sequence[int], int], int | None]
"""(output, tokens already searched) -> how many tokens to keep when a stop string stands in them, else None."""


@dataclass(frozen=True, slots=True)
class DecodeContext:
    """What a state knows of the model and the request beside its parameters."""

    mask_token_id: int
    eos_token_ids: frozenset[int]
    """Ends the output, unless the request ignores them; stop ids of the request included."""
    prefill_slice: int
    """Prompt tokens per forward."""
    find_stop: StopFinder | None = None


class DecodeState(ABC):
    """One request in one mode. `output` grows until `finish_reason` is set; then `tokens()` is the answer."""

    defaults: ClassVar[ModeDefaults]
    """The mode's block_length and threshold when a request names none."""
    causal_prompt: ClassVar[bool] = True
    """False: the prompt is prefilled with full attention."""

    def __init__(self, prompt_ids: Sequence[int], params: DecodeParams, context: DecodeContext) -> None:
        self.prompt_ids = list(prompt_ids)
        self.params = params
        self.context = context
        self.output: list[int] = []
        self.logprobs: list[float] = []
        self.cached = 0
        """Tokens whose KV is kept: prompt, then output."""
        self.finish_reason: str | None = None
        self.forwards = dict.fromkeys(FORWARD_KINDS, 0)
        self._searched = 0

    @staticmethod
    @abstractmethod
    def nfe(forwards: Mapping[str, int]) -> int:
        """The reference's count of function evaluations, from forwards by kind."""

    @abstractmethod
    def _next_chunk(self) -> Chunk:
        """The next chunk after the prompt."""

    @abstractmethod
    def _advance(self, chunk: Chunk, sampled: Sampled) -> None:
        """Takes the result of a chunk that `_next_chunk` handed out."""

    @abstractmethod
    def _begin(self, token: int, logprob: float) -> None:
        """Takes the token that the prompt's last logit gives."""

    @property
    def trace(self) -> list[object] | None:
        """The mode's record of its passes; None when it has none."""
        return None

    @property
    def acceptance_lengths(self) -> list[int]:
        """Tokens committed per verify; empty when the mode has none."""
        return []

    @property
    def max_kv_tokens(self) -> int:
        """KV rows this request can ever write, scratch included."""
        return len(self.prompt_ids) + self.params.max_new_tokens + 2 * self.params.block_length

    def next_chunk(self) -> Chunk:
        """What to run next. Valid until `finish_reason` is set."""
        start, prompt = self.cached, self.prompt_ids
        if start >= len(prompt):
            return self._next_chunk()
        end = min(start + self.context.prefill_slice, len(prompt))
        last = end == len(prompt)
        return Chunk(
            kind="prefill",
            token_ids=prompt[start:end],
            position=start,
            causal=self.causal_prompt,
            keep_kv=True,
            rows=(end - start - 1,) if last else (),
            purpose="decode",
            confidence=Confidence.RAW,
            sample_offset=1,
            history=self._history(),
        )

    def advance(self, chunk: Chunk, sampled: Sampled) -> None:
        """Takes what the forward gave for `chunk` and moves on; counts the forward."""
        self.forwards[chunk.kind] += 1
        if chunk.kind != "prefill":
            self._advance(chunk, sampled)
            return
        self.cached += len(chunk.token_ids)
        if sampled.tokens:
            self._begin(sampled.tokens[0], sampled.logprobs[0])

    def tokens(self) -> list[int]:
        """The answer: never longer than max_new_tokens."""
        return self.output[: self.params.max_new_tokens]

    def _history(self) -> list[int] | None:
        return None if self.params.repetition_penalty == 1.0 else self.prompt_ids + self.output

    def _emit(self, tokens: Sequence[int], logprobs: Sequence[float]) -> None:
        """Appends to the output and sets `finish_reason` when it ends there: end token, stop string or length."""
        start = len(self.output)
        self.output += tokens
        self.logprobs += logprobs
        keep = None if self.params.ignore_eos else self._first_end(start)
        if self.context.find_stop is not None:
            stop = self.context.find_stop(self.output if keep is None else self.output[:keep], self._searched)
            keep = stop if stop is not None else keep
        self._searched = len(self.output)
        limit = self.params.max_new_tokens
        if keep is not None and keep <= limit:
            del self.output[keep:], self.logprobs[keep:]
            self.finish_reason = "stop"
        elif len(self.output) >= limit:
            del self.output[limit:], self.logprobs[limit:]
            self.finish_reason = "length"

    def _first_end(self, start: int) -> int | None:
        for index in range(start, len(self.output)):
            if self.output[index] in self.context.eos_token_ids:
                return index + 1
        return None

    def _still_thinking(self) -> bool:
        """A thinking budget is set and the output holds no end-of-thinking token yet."""
        end = self.params.end_think_token_id
        return self.params.max_thinking_tokens is not None and end is not None and end not in self.output
