"""Answers in parts: which requests ask for a stream, and how its events are sent as the tokens come."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from trimode.balancer.api.chunks import DENOISE, Chunks, StreamOptions
from trimode.balancer.api.errors import reply_to_failure
from trimode.balancer.api.outbox import EXTENSION
from trimode.core.delta import Delta
from trimode.core.errors import InvalidRequestError, TrimodeError
from trimode.core.field_rules import show

Json = dict[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


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
        self._chunks.writer = self._request.scope.get("extensions", {}).get(EXTENSION, {}).get("writer")
        while not self._gone.done():
            if self._work.done():
                await send({"type": "http.response.body", "body": self._chunks.take() + await self._last_words()})
                return
            if body := self._chunks.take():
                await send({"type": "http.response.body", "body": body, "more_body": True})
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
