"""The balancer's end of a worker's socket: many calls at once over one connection."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Mapping
from typing import Any

from trimode.balancer.actors.wire import Kind, Message, Wire, proof
from trimode.balancer.actors.worker_socket import TCP, UNIX
from trimode.core.delta import Delta, OnDelta
from trimode.core.errors import GenerationError, WorkerError
from trimode.core.protocol import Generation
from trimode.core.worker import WorkerStats

log = logging.getLogger("trimode.balancer")

CONNECT_S = 60.0
"""A worker that has just said its address must answer within this many seconds."""


class WorkerClient(Wire):
    """Calls the worker. Every call ends in a WorkerError once the connection is lost."""

    def __init__(self, name: str, secret: str) -> None:
        super().__init__()
        self._name = name
        self._secret = secret
        self._numbers = itertools.count()
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._listeners: dict[int, OnDelta] = {}
        self._lost: str | None = None
        self.num_heard = 0
        """Parts and ends of answers that have come. Stats do not count."""
        self.trusted: asyncio.Future[None] = self._loop.create_future()
        """Done once the proof is on its way."""

    async def generate(self, fields: Mapping[str, object], on_delta: OnDelta | None) -> Generation:
        """Answers one request; raises as Worker.generate does."""
        call = next(self._numbers)
        if on_delta is not None:
            self._listeners[call] = on_delta
        try:
            found: Generation = await self._call(call, Kind.GENERATE, fields, on_delta is not None)
        finally:
            self._listeners.pop(call, None)
        return found

    async def cancel(self, request_id: str) -> None:
        """Ends a running request."""
        self.send(Kind.CANCEL, request_id)

    async def flush(self) -> None:
        """Returns when the running requests are written down, if the worker has a journal."""
        await self._call(next(self._numbers), Kind.FLUSH)

    async def text(self, task: str, fields: Mapping[str, object]) -> dict[str, Any]:
        """Answers a question about text; raises as Worker.text does."""
        found: dict[str, Any] = await self._call(next(self._numbers), Kind.TEXT, task, fields)
        return found

    async def stats(self) -> WorkerStats:
        """Returns the worker's counters."""
        found: WorkerStats = await self._call(next(self._numbers), Kind.STATS)
        return found

    async def _call(self, call: int, kind: Kind, *arguments: object) -> Any:  # noqa: ANN401 (each kind has its own)
        if self._lost is not None:
            raise WorkerError(self._lost)
        future = self._calls[call] = self._loop.create_future()
        self.send(kind, call, *arguments)
        try:
            return await future
        finally:
            self._calls.pop(call, None)

    def receive(self, message: Message) -> None:
        """Takes one message."""
        kind = message[0]
        if kind == Kind.NONCE:
            self.send(Kind.PROOF, proof(self._secret, message[1]))
            self.trusted.set_result(None)
            return
        call = message[1]
        self.num_heard += kind not in (Kind.STATS, Kind.FLUSH)
        if kind == Kind.DELTA:
            if (listener := self._listeners.get(call)) is not None:
                listener(Delta.from_json(message[2]))
            return
        future = self._calls.get(call)
        if future is None or future.done():
            return
        if kind == Kind.RESULT:
            future.set_result(Generation.from_json(message[2]))
        elif kind == Kind.FLUSH:
            future.set_result(None)
        elif kind == Kind.STATS:
            future.set_result(WorkerStats.from_json(message[2]))
        elif kind == Kind.TEXT:
            future.set_result(message[2])
        elif kind == Kind.REFUSED:
            future.set_exception(GenerationError(message[2], message[3]))
        elif kind == Kind.FAILED:
            log.error("%s: unexpected error in a request", self._name)
            future.set_exception(GenerationError("the worker failed on this request; its log has the cause", 500))

    def connection_lost(self, cause: Exception | None) -> None:
        """Fails every call."""
        super().connection_lost(cause)
        self._lost = f"{self._name} died (its connection is lost)"
        for future in [*self._calls.values(), self.trusted]:
            if not future.done():
                future.set_exception(WorkerError(self._lost))
        self.trusted.exception()  # read, so that asyncio does not report it where nobody waits for it


async def connect(name: str, address: str, secret: str) -> WorkerClient:
    """Connects to a worker that listens at `address`. WorkerError if it does not answer."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(CONNECT_S):
            if address.startswith(UNIX):
                path = address.removeprefix(UNIX)
                _, client = await loop.create_unix_connection(lambda: WorkerClient(name, secret), path)
            else:
                host, _, port = address.removeprefix(TCP).rpartition(":")
                _, client = await loop.create_connection(lambda: WorkerClient(name, secret), host, int(port))
            await client.trusted
    except (OSError, TimeoutError) as error:
        raise WorkerError(f"{name} cannot be reached ({type(error).__name__})") from None
    return client
