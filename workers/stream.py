"""The parts of an answer as they come: new tokens, text that can no longer change, and passes for those who watch."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from trimode.core.delta import Delta, Json
from trimode.core.protocol import Generation, Top
from trimode.workers.decode.passes import BlockPass
from trimode.workers.engine.scheduler import Sequence as Request
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


@dataclass(frozen=True, slots=True)
class News:
    """What one step brought for one request, as the engine has it."""

    token_ids: list[int]
    logprobs: list[float] | None
    tops: list[Top] | None
    passes: list[BlockPass]


class Progress:
    """What has been handed out of one request. Used by the engine's thread."""

    def __init__(self) -> None:
        self._num_tokens = 0

    def take(self, request: Request) -> News | None:
        """Returns what has come since the last call; None if nothing has."""
        state = request.state
        passes = state.passes
        if passes:
            state.passes = []
        # a request that had to start again repeats its tokens
        new = state.output[self._num_tokens :]
        if not new:
            return News([], None, None, passes) if passes else None
        logprobs = state.logprobs[self._num_tokens :] if state.params.logprobs else None
        tops = state.top_logprobs[self._num_tokens :] if state.num_top else None
        self._num_tokens += len(new)
        return News(new, logprobs, tops, passes or [])


class PartMaker:
    """Makes the Deltas of one request from its news. Used by the event loop's thread."""

    def __init__(self, text: Text, mode: str, stops: Sequence[str]) -> None:
        self._text = text
        self._mode = mode
        self._stable = StableText(text.token_bytes if text.joins_bytes else None, stops)

    def delta(self, news: News) -> Delta:
        """Returns the next part."""
        return Delta(
            token_ids=news.token_ids,
            logprobs=news.logprobs,
            tops=news.tops,
            text=self._stable.add(news.token_ids),
            passes=[self._shown(one) for one in news.passes],
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
