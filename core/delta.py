"""What one step of a worker adds to an answer: its new tokens and text, and on request the state of the decoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from trimode.core.protocol import Top

Json = dict[str, Any]


@dataclass(slots=True, kw_only=True)  # not frozen: made for every part, which takes three times as long if it is
class Delta:
    """The part of an answer that has come since the Delta before it. The parts together are the whole answer."""

    token_ids: Sequence[int] = ()
    """Tokens committed since then; empty if only text or passes have come."""
    logprobs: Sequence[float] | None = None
    """Log-probability of each of these tokens; None unless asked for."""
    tops: Sequence[Top] | None = None
    """The most probable tokens at the place of each of them; None unless asked for."""
    text: str = ""
    """Text that can no longer change. It may lag behind the tokens: half a character and the beginning of a possible
    stop string are held back."""
    passes: Sequence[Json] = ()
    """Passes over blocks as JSON, in order: mode, block, pass, start and tokens of a denoise event (docs/serving.md).
    Empty unless asked for."""
    boundary: Json | None = None
    """A core.continuation.Continuation of the request after these tokens, as JSON, without token_ids and logprobs:
    those of this Delta and of all before it belong there. None if the request cannot go on from here elsewhere."""

    def to_json(self) -> list[object]:
        """Returns the fields as a short list."""
        return [self.token_ids, self.logprobs, self.tops, self.text, self.passes, self.boundary]

    @classmethod
    def from_json(cls, value: Sequence[Any]) -> Delta:
        """Returns what `to_json` wrote."""
        token_ids, logprobs, tops, text, passes, boundary = value
        return cls(token_ids=token_ids, logprobs=logprobs, tops=tops, text=text, passes=passes, boundary=boundary)


OnDelta = Callable[[Delta], None]
"""Takes the next Delta of a request."""
