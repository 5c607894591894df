"""Answers in parts: OpenAI's chunks as server-sent events, sent as the tokens come."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from trimode.balancer.api.errors import reply_to_failure
from trimode.balancer.api.logprobs import Rated, chat_logprobs, text_logprobs
from trimode.balancer.api.reasoning import ReasoningSplitter
from trimode.balancer.api.rendering import to_json
from trimode.balancer.api.replies import prompt_text
from trimode.balancer.api.requests import ParsedRequest
from trimode.balancer.api.vocabulary import Offsets, TokenNames, Vocabulary
from trimode.core.delta import Delta
from trimode.core.errors import GenerationError, InvalidRequestError, TrimodeError
from trimode.core.field_rules import show

Json = dict[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

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


def stream_options(body: Json) -> StreamOptions | None:
    """Reads the fields of a body that ask for a stream; None if it asks for none. InvalidRequestError if wrong."""
    streams, options, events = (body.get(name) for name in ("stream", "stream_options", "stream_events"))
    if events not in (None, DENOISE):
        raise InvalidRequestError(f'stream_events: got {show(events)}; valid: "{DENOISE}"', "stream_events")
    if options is not None and not isinstance(options, dict):
        raise InvalidRequestError(f"stream_options: got {show(options)}; valid: an object", "stream_options")
    include_usage = _flag("stream_options.include_usage", (options or {}).get("include_usage"))
    if not _flag("stream", streams):
        for name, value in (("stream_options", options), ("stream_events", events)):
            if value:
                raise InvalidRequestError(f'{name}: got {show(value)}; valid: only with "stream": true', name)
        return None
    rated = body.get("prompt_logprobs")
    if (rated is not None and rated is not False) or (body.get("echo") and body.get("logprobs") is not None):
        message = "stream: got true beside log-probabilities of the prompt; valid: one of them"
        raise InvalidRequestError(message, "stream")
    return StreamOptions(include_usage=include_usage, denoise=events == DENOISE)


def _flag(name: str, value: object) -> bool:
    if value is not None and not isinstance(value, bool):
        raise InvalidRequestError(f"{name}: got {show(value)}; valid: true, false", name)
    return bool(value)


class Chunks:
    """Turns the parts of the answers to one request into events, and holds them until they are sent."""

    def __init__(
        self, head: Json, parsed: ParsedRequest, options: StreamOptions, vocabulary: Vocabulary, *, chat: bool
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
        if delta.text or more:
            self._put([self._choice(index, delta.text, more)])
        self.wake()

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
        self.wake()

    def fail(self, body: bytes) -> None:
        """Takes the body of the error that ended the request."""
        self._waiting.append(f"data: {body.decode()}\n\n{DONE}")
        self.wake()

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


class EventStream(Response):
    """Sends chunks as they come, until the work has ended or the client has left, which cancels it."""

    media_type = "text/event-stream"

    def __init__(
        self,
        request: Request,
        chunks: Chunks,
        work: asyncio.Task[None],
        gone: asyncio.Future[None],
        headers: dict[str, str],
    ) -> None:
        """`work`: generates and puts chunks. `gone`: done when the client has left. Both end a `chunks.wait`."""
        super().__init__(headers={**headers, "cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._request = request
        self._chunks = chunks
        self._work = work
        self._gone = gone

    async def __call__(self, _scope: object, _receive: object, send: Send) -> None:
        """Sends the reply. Raises what nobody expected, after it has been sent as an error."""
        try:
            await self._send_all(send)
        except OSError:
            return  # the client has left
        finally:
            self._gone.cancel()
            self._work.cancel()
        error = self._work.exception() if self._work.done() and not self._work.cancelled() else None
        if error is not None and not isinstance(error, TrimodeError):
            raise error

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        while not self._gone.done():
            over = self._work.done()
            if body := self._chunks.take():
                await send({"type": "http.response.body", "body": body, "more_body": True})
            elif over:
                await send({"type": "http.response.body", "body": await self._last_words()})
                return
            else:
                await self._chunks.wait()

    async def _last_words(self) -> bytes:
        """Returns the error that ended the work, as an event; empty if there was none."""
        error = self._work.exception()
        if not isinstance(error, Exception):
            return b""
        self._chunks.fail(bytes((await reply_to_failure(self._request, error)).body))
        return self._chunks.take()


async def stream_reply(
    request: Request,
    chunks: Chunks,
    answer: Callable[[Callable[[int, Delta], None]], Awaitable[Json]],
    disconnected: Coroutine[Any, Any, None],
    headers: dict[str, str],
) -> Response:
    """Returns the reply to a request that streams, once its first part is there.

    An error before that is raised, so that it has its HTTP status.

    Args:
        request: the request.
        chunks: takes the parts.
        answer: generates the whole reply and hands out its parts.
        disconnected: returns when the client has left.
        headers: of the reply.
    """

    async def work() -> None:
        chunks.finish(await answer(chunks.add))

    task, gone = asyncio.ensure_future(work()), asyncio.ensure_future(disconnected)
    try:
        for end in (task, gone):
            end.add_done_callback(lambda _: chunks.wake())
        while not (chunks.started or task.done() or gone.done()):
            await chunks.wait()
        if task.done():
            task.result()
    except BaseException:
        task.cancel()
        gone.cancel()
        raise
    return EventStream(request, chunks, task, gone, headers)
