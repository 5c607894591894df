"""The parts of an answer as they come: new tokens, text that can no longer change, and passes for those who watch."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from trimode.core.continuation import Continuation
from trimode.core.delta import Delta, Json, OnDelta
from trimode.core.protocol import Generation, Top
from trimode.workers.decode.passes import BlockPass
from trimode.workers.engine.scheduler import Sequence as Request
from trimode.workers.runtime import Prepared
from trimode.workers.text import Text


class StableText:
    """Turns tokens into text bit by bit. What it has returned stays true whatever comes after.

    Half a character and the beginning of a possible stop string are held back. Where the tokenizer's decoder does more
    than to join the bytes of tokens, nothing is returned before the end.
    """

    def __init__(self, token_bytes: Callable[[int], bytes] | None, stops: Sequence[str]) -> None:
        """`token_bytes`: the bytes of one token; None if the text of an answer is not made of those of its tokens."""
        self._token_bytes = token_bytes
        self._stops = stops
        self._longest = max(map(len, stops), default=1)
        self._characters = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        """Decoded text that a stop string may still cut off."""
        self._num_sent = 0
        self._stopped = False

    def add(self, token_ids: Sequence[int]) -> str:
        """Returns the text that has become certain by these tokens."""
        if self._token_bytes is None or self._stopped:
            return ""
        text = self._held + self._characters.decode(b"".join(map(self._token_bytes, token_ids)))
        certain = len(text) if not self._stops else self._certain(text)
        self._held = text[certain:]
        self._num_sent += certain
        return text[:certain]

    def rest(self, text: str) -> str:
        """Returns what has not been returned yet of the whole text of the answer."""
        rest = text[self._num_sent :]
        self._num_sent = len(text)
        return rest

    def _certain(self, text: str) -> int:
        """Returns how many characters of `text` no stop string can cut off."""
        found = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        self._stopped = bool(found)
        certain = min(found, default=len(text))
        for at in range(max(0, len(text) - self._longest + 1), certain):
            if any(stop.startswith(text[at:]) for stop in self._stops):
                return at
        return certain


@dataclass(slots=True)  # not frozen: made for every request in every step, which takes three times as long if it is
class News:
    """What one step brought for one request, as the engine has it."""

    token_ids: Sequence[int]
    logprobs: Sequence[float] | None
    tops: Sequence[Top] | None
    passes: Sequence[BlockPass]
    boundary: Continuation | None
    """The part of the request since the boundary before; None if it cannot be continued from here."""


class PartMaker:
    """Makes the Deltas of one request from its news."""

    def __init__(self, text: Text, prepared: Prepared, *, with_text: bool) -> None:
        """What the continuation of the request holds is taken as handed out."""
        params = prepared.params
        self._with_text = with_text
        self._text = text
        self._mode = params.mode
        self._stable = StableText(text.token_bytes if text.joins_bytes else None, params.stop)
        if prepared.continuation is not None:
            self._stable.add(prepared.continuation.token_ids)

    def delta(self, news: News) -> Delta:
        """Returns the next part."""
        return Delta(
            token_ids=news.token_ids,
            logprobs=news.logprobs,
            tops=news.tops,
            text=self._stable.add(news.token_ids) if self._with_text else "",
            passes=[self._shown(one) for one in news.passes],
            boundary=None if news.boundary is None else news.boundary.counts_to_json(),
        )

    def last(self, generation: Generation) -> Delta | None:
        """Returns the text that was held back to the end; None if there is none."""
        rest = self._stable.rest(generation.text or "")
        return Delta(text=rest) if rest else None

    def _shown(self, one: BlockPass) -> Json:
        tokens = [
            {
                "id": item.token,
                "text": "" if item.set_by is None else self._text.token_text(item.token),
                "state": item.state.value,
                "p": item.confidence,
                "pass": item.set_by,
            }
            for item in one.tokens
        ]
        return {"mode": self._mode, "block": one.block, "pass": one.number, "start": one.start, "tokens": tokens}


class Listener:
    """Who takes the parts of one answer, and what it has got."""

    def __init__(
        self, on_delta: OnDelta, loop: asyncio.AbstractEventLoop, *, show_passes: bool, every_s: float | None = None
    ) -> None:
        """`on_delta` is called in `loop`.

        Args:
            on_delta: takes the parts.
            loop: where it is called.
            show_passes: True if the passes over blocks are wanted beside the tokens.
            every_s: seconds between two parts, which then have no text; None = a part after each step that brings one.
        """
        self.loop = loop
        self._every_s = every_s
        self._due = time.monotonic() + (every_s or 0.0)
        self.show_passes = show_passes
        self._on_delta = on_delta
        self._parts: PartMaker | None = None
        self._num_tokens = 0
        self._trace_length = 0

    def begin(self, text: Text, prepared: Prepared) -> None:
        """Must be called before anything else. What the request's own continuation holds is taken as handed out."""
        self._parts = PartMaker(text, prepared, with_text=self._every_s is None)
        if prepared.continuation is not None:
            self._num_tokens = prepared.continuation.end
            self._trace_length = len(prepared.continuation.trace or ())

    def take(self, request: Request) -> News | None:
        """Returns what has come since the last call; None if nothing has. For the engine's thread."""
        if self._every_s is not None and not self._is_due(request, self._every_s):
            return None
        state = request.state
        passes = state.passes or ()
        if passes:
            state.passes = []
        start = self._num_tokens
        # a request that had to start again repeats its tokens
        if len(state.output) <= start:
            return News((), None, None, passes, None) if passes else None
        self._num_tokens = len(state.output)
        logprobs = state.logprobs[start:] if state.params.logprobs else None
        boundary = request.boundary(start, self._trace_length)
        if boundary is not None:
            self._trace_length += len(boundary.trace or ())
        tops = state.top_logprobs[start:] if state.params.num_top else None
        return News(state.output[start:], logprobs, tops, passes, boundary)

    def _is_due(self, request: Request, every_s: float) -> bool:
        """True if there is a token that has not been handed out, and the last part is `every_s` seconds old."""
        if len(request.state.output) <= self._num_tokens or (now := time.monotonic()) < self._due:
            return False
        self._due = now + every_s
        return True

    def hear(self, news: News) -> None:
        """Hands out what a step brought. Runs in the event loop."""
        assert self._parts is not None
        self._on_delta(self._parts.delta(news))

    def hear_last(self, generation: Generation) -> None:
        """Hands out what was held back to the end. Runs in the event loop, after every `hear`."""
        if self._every_s is None and self._parts is not None and (last := self._parts.last(generation)) is not None:
            self._on_delta(last)


class Listeners:
    """The listeners of all requests inside an engine. For the engine's thread."""

    def __init__(self) -> None:
        self._of: dict[Request, Listener] = {}

    def add(self, request: Request, listener: Listener) -> None:
        """Notes who listens to a request that the engine has just got."""
        self._of[request] = listener
        request.state.passes = [] if listener.show_passes else None

    def remove(self, request: Request) -> None:
        """Forgets a request that has ended, if somebody listened to it."""
        self._of.pop(request, None)

    def hand_out(self) -> None:
        """Gives each event loop, in one call, what the last step brought for those who listen there."""
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[Listener, News]]] = {}
        for request, listener in self._of.items():
            news = listener.take(request)
            if news is not None:
                by_loop.setdefault(listener.loop, []).append((listener, news))
        for loop, found in by_loop.items():
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(_hear_all, found)


def _hear_all(found: Sequence[tuple[Listener, News]]) -> None:
    for listener, news in found:
        listener.hear(news)
