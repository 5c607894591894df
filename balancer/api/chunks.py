"""The events of one streamed reply: OpenAI's chunks from the parts of its answers, held until they are sent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trimode.balancer.api.logprobs import Rated, chat_logprobs, text_logprobs
from trimode.balancer.api.outbox import Outbox, PartWriter
from trimode.balancer.api.reasoning import ReasoningSplitter
from trimode.balancer.api.rendering import to_json
from trimode.balancer.api.replies import prompt_text
from trimode.balancer.api.requests import ParsedRequest
from trimode.balancer.api.vocabulary import Offsets, TokenNames, Vocabulary
from trimode.core.delta import Delta
from trimode.core.errors import GenerationError

Json = dict[str, Any]

DENOISE = "denoise"
"""The one kind of `stream_events`."""
LEDGER = (
    *("nfe", "tpf", "forwards", "forwards_saved", "acceptance_lengths", "widths", "fixed_tokens"),
    *("queue_s", "first_token_s", "total_s"),
)
"""Fields of a reply's usage that the last chunk of a stream carries under `trimode`."""
DONE = "data: [DONE]\n\n"
MAX_WAITING_CHARACTERS = 32 * 2**20
"""Most text of one request that waits for a client that reads slowly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamOptions:
    """How one request wants its answer in parts."""

    include_usage: bool
    """True for a chunk with the usage."""
    denoise: bool
    """True for an event with the state of the block after each pass of the model."""


class Chunks:
    """Turns the parts of the answers to one request into events, and holds them until they are sent."""

    def __init__(
        self,
        head: Json,
        parsed: ParsedRequest,
        options: StreamOptions,
        vocabulary: Vocabulary,
        outbox: Outbox,
        *,
        chat: bool,
    ) -> None:
        """`head` holds id, created and model, as in a reply without streaming."""
        self._parsed = parsed
        self._options = options
        self._chat = chat
        self._head = {**head, "object": "chat.completion.chunk" if chat else "text_completion"}
        self._id = head["id"]
        self._vocabulary = vocabulary
        self._names = TokenNames(vocabulary, by_id=parsed.token_names_by_id)
        self._offsets = [Offsets(vocabulary) for _ in range(parsed.num_replies)]
        self._splitters = [ReasoningSplitter() for _ in range(parsed.num_replies)]
        self._waiting: list[str] = []
        self._size = 0
        """Characters of `_waiting`."""
        self._wake: asyncio.Future[None] | None = None
        self._outbox = outbox
        self._queued = False
        """True while the outbox is to call `_write`."""
        self.writer: PartWriter | None = None
        """Set once the head of the reply is sent, if its connection takes parts."""
        self._before = f'data: {to_json(self._head)[:-1]},"choices":[{{"index":'
        self._between = ',"delta":{"content":' if chat else ',"text":'
        self._after = f'{"}" * chat},"logprobs":null,"finish_reason":null}}]}}\n\n'
        self.started = False
        """True once there is something to send."""

    def add(self, index: int, delta: Delta) -> None:
        """Takes the next part of one answer. GenerationError (408) if too much of it waits for the client."""
        self._begin()
        for one in delta.passes:
            event = json.dumps({"request_id": self._id, "index": index, **one}, separators=(",", ":"))
            self._add(f"event: {DENOISE}\ndata: {event}\n\n")
        more: Json = {}
        if self._parsed.logprobs and delta.token_ids:
            more["logprobs"] = self._logprobs(index, delta)
        if self._parsed.return_token_ids and delta.token_ids:
            more["token_ids"] = delta.token_ids
        if more or (delta.text and self._parsed.splits_reasoning):
            self._put([self._choice(index, delta.text, more)])
        elif delta.text:  # what comes most often
            self._add(f"{self._before}{index}{self._between}{to_json(delta.text)}{self._after}")
        self._offer()

    def finish(self, reply: Json) -> None:
        """Takes the reply that would have been sent without streaming, once all parts have come."""
        self._begin()
        usage = reply["usage"]
        ledger = {name: usage[name] for name in LEDGER if name in usage}
        choices = reply["choices"]
        for choice in choices:
            if self._parsed.splits_reasoning and (rest := self._splitters[choice["index"]].rest()):
                self._put([self._delta_choice(choice["index"], {"reasoning_content": rest}, {})])
            ending = self._choice(choice["index"], "", {"finish_reason": choice["finish_reason"]})
            is_last = choice is choices[-1] and not self._options.include_usage
            self._put([ending], {"trimode": ledger} if is_last else {})
        if self._options.include_usage:
            self._put([], {"usage": usage, "trimode": ledger})
        self._waiting.append(DONE)

    def fail(self, body: bytes) -> None:
        """Takes the body of the error that ended the request."""
        self._waiting.append(f"data: {body.decode()}\n\n{DONE}")

    def take(self) -> bytes:
        """Returns what waits to be sent; empty if nothing does."""
        waiting, self._waiting, self._size = self._waiting, [], 0
        return "".join(waiting).encode("utf-8", "backslashreplace")

    def wake(self) -> None:
        """Ends a `wait`."""
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def wait(self) -> None:
        """Returns at the next `wake`, at once if something waits to be sent."""
        if self._waiting:
            return
        self._wake = asyncio.get_running_loop().create_future()
        await self._wake

    @property
    def _has_sender(self) -> bool:
        """True if a task is in `wait`, so that it holds nothing that would have to be sent first."""
        return self._wake is not None and not self._wake.done()

    def _offer(self) -> None:
        """Has what waits written at the end of this turn, or wakes the task that sends."""
        if self.writer is None or not self._has_sender:
            self.wake()
        elif not self._queued:
            self._queued = True
            self._outbox.add(self._write)

    def _write(self) -> None:
        self._queued = False
        if not self._has_sender or self.writer is None:
            return  # the task that sends is awake and takes what waits
        if self._waiting and self.writer.ready:
            self.writer.write(self.take())
        else:
            self.wake()

    def _begin(self) -> None:
        """Puts what comes before the first part."""
        if self.started:
            return
        self.started = True
        everyone = range(self._parsed.num_replies)
        if self._chat:
            role = {"role": "assistant", "content": ""}
            self._put([self._delta_choice(index, role, {}) for index in everyone])
        elif self._parsed.echo:
            texts = [prompt_text(self._parsed, index // self._parsed.n, self._vocabulary) for index in everyone]
            self._put([self._choice(index, texts[index], {}) for index in everyone])

    def _logprobs(self, index: int, delta: Delta) -> Json:
        rated = Rated(token_ids=delta.token_ids, logprobs=delta.logprobs or (), tops=delta.tops)
        if self._chat:
            return chat_logprobs(rated, self._names)
        return text_logprobs(rated, self._names, self._offsets[index])

    def _choice(self, index: int, text: str, more: Json) -> Json:
        if not self._chat:
            return {"index": index, "text": text, "logprobs": None, "finish_reason": None} | more
        if self._parsed.splits_reasoning:
            thoughts, answer = self._splitters[index].add(text)
            parts = {"reasoning_content": thoughts, "content": answer}
        else:
            parts = {"content": text}
        return self._delta_choice(index, {name: part for name, part in parts.items() if part}, more)

    def _delta_choice(self, index: int, delta: Json, more: Json) -> Json:
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None} | more

    def _put(self, choices: Sequence[Json], more: Json | None = None) -> None:
        chunk = {**self._head, "choices": choices, **(more or {})}
        self._add(f"data: {to_json(chunk)}\n\n")

    def _add(self, event: str) -> None:
        self._waiting.append(event)
        self._size += len(event)
        if self._size > MAX_WAITING_CHARACTERS:
            raise GenerationError("the client reads too slowly: too much of the answer waits for it", 408)
