"""What is there of an answer so far, and how another worker goes on with it after a death."""

from __future__ import annotations

import time

from trimode.core.delta import Delta, Json, OnDelta
from trimode.core.errors import GenerationError

PARTS_EVERY_S = 0.5
"""A worker says this often how far it is with an answer that is wanted as a whole. A death costs that much work."""


class Delivered:
    """Passes the parts of one answer on to the client, each token and character once, whichever worker they come from.

    Another worker goes on from the last boundary that came. What it gives again up to where the client is, is compared
    and left out. A client that waits for the whole answer has got nothing, so there is nothing to compare.
    """

    def __init__(self, on_delta: OnDelta | None) -> None:
        """`on_delta`: the client; None if it waits for the whole answer."""
        self._on_delta = on_delta
        self._token_ids: list[int] = []
        self._logprobs: list[float] = []
        self._trace: list[object] | None = None
        self._num_characters = 0
        self._last_pass = (-1, -1)
        """Block and number of the last pass over a block that was shown."""
        self._boundary: Json | None = None
        self._boundary_at = (0, 0)
        """Tokens and characters before it."""
        self._at = (0, 0)
        """Tokens and characters up to where the worker of now has come."""
        self._again = False
        """True if the worker of now may give what the client has."""
        self.first_token: float | None = None
        """When the first token came, in seconds of `time.monotonic`; None before that."""

    def take(self, delta: Delta) -> None:
        """Takes the next part from the worker of now. GenerationError (500) if it contradicts what the client has."""
        num_tokens, num_characters = self._at
        self._at = (num_tokens + len(delta.token_ids), num_characters + len(delta.text))
        if self._again:
            delta = self._new_part(delta, num_tokens, num_characters)
        if self.first_token is None and delta.token_ids:
            self.first_token = time.monotonic()
        self._token_ids += delta.token_ids
        self._logprobs += delta.logprobs or ()
        self._num_characters += len(delta.text)
        if delta.passes:
            self._last_pass = _place(delta.passes[-1])
        if delta.boundary is not None:
            self._boundary, self._boundary_at = delta.boundary, self._at
            if (trace := delta.boundary.get("trace")) is not None:
                self._trace = [*(self._trace or ()), *trace]
        if self._on_delta is not None and (delta.token_ids or delta.text or delta.passes):
            self._on_delta(delta)

    def go_on(self) -> Json | None:
        """Prepares for another worker. Returns the continuation for it; None if it has to begin anew."""
        self._at = self._boundary_at
        size = self._boundary_at[0]
        if self._on_delta is None:
            del self._token_ids[size:], self._logprobs[size:]
        else:
            self._again = True
        if self._boundary is None:
            return None
        whole = {name: value for name, value in self._boundary.items() if name not in ("start", "trace_start")}
        whole |= {"token_ids": self._token_ids[:size], "trace": self._trace}
        return whole | ({"logprobs": self._logprobs[:size]} if self._logprobs else {})

    def _new_part(self, delta: Delta, num_tokens: int, num_characters: int) -> Delta:
        """Returns the part of `delta` that the client does not have yet. The counts are of what came before it."""
        known = self._token_ids[num_tokens : num_tokens + len(delta.token_ids)]
        if known != list(delta.token_ids[: len(known)]):
            raise GenerationError(
                "generation failed: its worker died, and another one did not go on with the answer: it has other "
                f"tokens from number {num_tokens} on",
                500,
            )
        logprobs, tops = delta.logprobs, delta.tops
        return Delta(
            token_ids=delta.token_ids[len(known) :],
            logprobs=None if logprobs is None else logprobs[len(known) :],
            tops=None if tops is None else tops[len(known) :],
            text=delta.text[max(0, self._num_characters - num_characters) :],
            passes=[one for one in delta.passes if _place(one) > self._last_pass],
            boundary=delta.boundary,
        )


def _place(one: Json) -> tuple[int, int]:
    return one["block"], one["pass"]
