"""What the routes share: the served model, bodies, and the vocabulary."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from starlette.requests import Request
from trimode.balancer.api.body import read_json
from trimode.balancer.api.guard import Visitors
from trimode.balancer.api.metrics import Metrics
from trimode.balancer.api.outbox import Outbox
from trimode.balancer.api.prompts import ModelLimits
from trimode.balancer.api.vocabulary import Vocabulary
from trimode.balancer.router import Router
from trimode.balancer.work import QueueFullError
from trimode.core.errors import GenerationError, InvalidRequestError, WorkerError
from trimode.core.field_rules import show
from trimode.core.protocol import Mode
from trimode.core.worker import Worker, WorkerInfo

Json = dict[str, Any]
T = TypeVar("T")

BODY_S = 60.0
"""Seconds in which a whole body must arrive."""
LARGE_BODY_BYTES = 64 << 10
"""A body of this size or more is read in a thread beside the event loop: it can take a second, and several can come at
a time. Smaller ones take less time than the way to the thread and back."""
TEXT_S = 120.0
"""Seconds in which a worker must answer a question about text before another one is asked."""
BODY_RETRY_S = 1
MOST_LARGE_BYTES = 2**29
"""Large bodies that are read at a time, all together. What comes of them, the router bounds."""
LARGE_REPLY_TOKENS = 1024
"""A reply with log-probabilities of so many tokens is made in a thread beside the event loop: it can take seconds."""


def _one_thread() -> ThreadPoolExecutor:
    """Returns one thread, so that large bodies or replies are handled one after another."""
    return ThreadPoolExecutor(1, thread_name_prefix="large")


@dataclass(slots=True, kw_only=True)
class Service:
    """What the routes use."""

    router: Router
    default_mode: Mode
    max_body_bytes: int
    api_key: str | None
    """Bearer key of every request but those to /health; None = all are answered."""
    request_log: Path | None
    infos: Callable[[], Sequence[WorkerInfo]]
    """What the workers are; empty until they are ready."""
    stats: Callable[[], Awaitable[Json]]
    """Stats of the balancer and of each worker."""
    started: float = field(default_factory=time.time)
    totals: Json = field(default_factory=lambda: {"requests": 0, "completion_tokens": 0, "nfe": 0, "forwards": {}})
    """Sums over the `usage` of all replies; `replies` in /stats."""
    body_reader: ThreadPoolExecutor = field(default_factory=_one_thread)
    """Reads large bodies."""
    reply_maker: ThreadPoolExecutor = field(default_factory=_one_thread)
    """Makes large replies."""
    visitors: Visitors = field(default_factory=Visitors)
    """Whom the server answers."""
    metrics: Metrics = field(default_factory=Metrics)
    outbox: Outbox = field(default_factory=Outbox)
    """Parts of streamed replies on their way."""
    large_bytes: int = 0
    """Of the large bodies that are being read now."""
    known_vocabulary: Vocabulary | None = None
    """None until somebody has asked for it."""

    def served(self) -> WorkerInfo:
        """Returns what is served. GenerationError (503) before the workers are ready."""
        infos = self.infos()
        if not infos:
            raise GenerationError("no worker is ready yet; try again later", 503)
        return infos[0]

    async def text(self, task: str, fields: Json) -> Json:
        """Returns a worker's answer to a question about text; if it dies or does not answer, that of another one.

        Raises GenerationError (503) if none answers, and what the worker refuses.
        """
        silent: list[Worker] = []
        for _ in self.router.slots:
            ready = [slot for slot in self.router.slots if slot.worker is not None and slot.worker not in silent]
            slot = min(ready, key=lambda slot: slot.outstanding, default=None)
            if slot is None or slot.worker is None:
                break
            worker = slot.worker
            try:
                async with asyncio.timeout(TEXT_S):
                    return await worker.text(task, fields)
            except TimeoutError:
                silent.append(worker)  # it may be reading long texts, so it lives on
            except WorkerError as error:
                self.router.slot_died(slot, worker, str(error))
        what = f"no worker has answered within {TEXT_S:g} s" if silent else "no worker is ready"
        raise GenerationError(f"{what}; try again later", 503)

    async def vocabulary(self) -> Vocabulary:
        """Returns the tokens of the served model."""
        if self.known_vocabulary is None:
            self.known_vocabulary = Vocabulary.from_worker(await self.text("vocabulary", {}))
        return self.known_vocabulary

    async def read(self, request: Request, parse: Callable[[Json, ModelLimits], T]) -> T:
        """Returns what `parse` makes of the body of a request for the served model.

        Raises:
            InvalidRequestError: the body, the model or whatever `parse` refuses.
            TryLaterError: too many large bodies are being read.
        """
        info = self.served()
        check_content_type(request)

        def read(data: bytes) -> T:
            body = read_json(data, info.max_model_len)
            _check_model(info, body.get("model"))
            return parse(body, ModelLimits(max_model_len=info.max_model_len, vocab_size=info.vocab_size))

        held = _HeldBody(self)
        try:
            data = await read_body(request, self.max_body_bytes, held.grow)
            if len(data) < LARGE_BODY_BYTES:
                return read(data)
            return await asyncio.get_running_loop().run_in_executor(self.body_reader, read, data)
        finally:
            held.release()

    async def make(self, num_rated: int, work: Callable[[], T]) -> T:
        """Returns the result of `work` on a reply that shows the log-probabilities of `num_rated` tokens."""
        if num_rated < LARGE_REPLY_TOKENS:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self.reply_maker, work)


class _HeldBody:
    """What one body takes of the room for large ones. A small body takes nothing."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._size = 0

    def grow(self, size: int) -> None:
        """Notes that the body has reached a size. Raises QueueFullError if there is no room for it."""
        if size < LARGE_BODY_BYTES:
            return
        service = self._service
        if service.large_bytes + size - self._size > MOST_LARGE_BYTES:
            raise QueueFullError(f"{service.large_bytes} bytes of large requests are being read", BODY_RETRY_S)
        service.large_bytes += size - self._size
        self._size = size

    def release(self) -> None:
        """Gives the room back."""
        self._service.large_bytes -= self._size
        self._size = 0


def check_content_type(request: Request) -> None:
    """Refuses what a web page can send anywhere without asking first, as a form can. InvalidRequestError (415)."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        shown = show(kind) if kind else "none"
        raise InvalidRequestError(f"content-type: got {shown}; valid: application/json", status=415)


async def read_body(request: Request, limit: int, grow: Callable[[int], None]) -> bytes:
    """Returns the body. InvalidRequestError if it is too long (413) or comes too slowly (408).

    `grow` gets the size after each part of it, and may raise.
    """
    chunks, size = [], 0
    declared = request.headers.get("content-length", "")
    too_long = declared.isdigit() and int(declared) > limit
    if not too_long:
        try:
            async with asyncio.timeout(BODY_S):
                async for chunk in request.stream():
                    size += len(chunk)
                    if size > limit:
                        too_long = True
                        break
                    grow(size)
                    chunks.append(chunk)
        except TimeoutError:
            raise InvalidRequestError(f"the body did not arrive within {BODY_S:g} s", status=408) from None
    if too_long:
        raise InvalidRequestError(f"the body is longer than {limit} bytes", status=413)
    return b"".join(chunks)


def _check_model(info: WorkerInfo, name: object) -> None:
    """A request may leave the model out, but not ask for another one."""
    served = info.served_model_name
    if name not in (None, served, info.model):
        raise InvalidRequestError(f"model: got {show(name)}; valid: {served}", "model", 404, "model_not_found")
