"""The worker's end of its socket: answers the balancer's calls with a worker in the same event loop."""

from __future__ import annotations

import asyncio
import hmac
import os
import secrets
import socket
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from trimode.balancer.actors.wire import MAX_FRAME_BYTES, MAX_HELLO_BYTES, Door, Kind, Message, Wire, proof
from trimode.core.delta import Delta
from trimode.core.errors import GenerationError, WorkerError
from trimode.core.protocol import Generation
from trimode.core.worker import Worker

T = TypeVar("T")
UNIX, TCP = "unix:", "tcp:"
"""How an address begins."""


class WorkerSocket(Wire):
    """Serves one connection. The requests of a balancer that has left are cancelled."""

    def __init__(self, worker: Worker, secret: str) -> None:
        super().__init__()
        self._worker = worker
        self._secret = secret
        self._nonce = secrets.token_hex(32)
        self._trusted = False
        self._max_frame_bytes = MAX_HELLO_BYTES
        self._tasks: set[asyncio.Task[Any]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Asks who it is."""
        super().connection_made(transport)
        self.send(Kind.NONCE, self._nonce)

    def connection_lost(self, cause: Exception | None) -> None:
        """Cancels what is running."""
        super().connection_lost(cause)
        for task in self._tasks:
            task.cancel()

    def receive(self, message: Message) -> None:
        """Takes one message."""
        kind = message[0]
        if not self._trusted:
            self._trusted = kind == Kind.PROOF and hmac.compare_digest(message[1], proof(self._secret, self._nonce))
            if self._trusted:
                self._max_frame_bytes = MAX_FRAME_BYTES
            else:
                self.close()
        elif kind == Kind.GENERATE:
            _, call, fields, in_parts = message
            self._start(call, fields, in_parts=in_parts)
        elif kind == Kind.CANCEL:
            self._keep(asyncio.ensure_future(self._worker.cancel(message[1])))
        elif kind == Kind.FLUSH:
            self._keep(asyncio.ensure_future(self._flush_journal(message[1])))
        elif kind == Kind.TEXT:
            _, call, task, fields = message
            self._reply(call, Kind.TEXT, asyncio.ensure_future(self._worker.text(task, fields)), dict)
        elif kind == Kind.STATS:
            self._keep(asyncio.ensure_future(self._say_stats(message[1])))

    def _start(self, call: int, fields: Mapping[str, object], *, in_parts: bool) -> None:
        def on_delta(delta: Delta) -> None:
            self.send(Kind.DELTA, call, delta.to_json())

        task = asyncio.ensure_future(self._worker.generate(fields, on_delta if in_parts else None))
        self._reply(call, Kind.RESULT, task, Generation.to_json)

    def _reply(self, call: int, kind: Kind, task: asyncio.Task[T], to_json: Callable[[T], object]) -> None:
        """Sends the result of a task as a message of this kind, or its error, when it ends."""
        self._keep(task)
        task.add_done_callback(lambda done: self._say_end(call, kind, done, to_json))

    def _say_end(self, call: int, kind: Kind, task: asyncio.Task[T], to_json: Callable[[T], object]) -> None:
        if task.cancelled():
            self.send(Kind.REFUSED, call, "the request was cancelled", 499)
            return
        error = task.exception()
        if error is None:
            self.send(kind, call, to_json(task.result()))
        elif isinstance(error, GenerationError):
            self.send(Kind.REFUSED, call, error.message, error.status)
        elif isinstance(error, WorkerError):
            # a broken engine answers no request: end its process, and the balancer starts a new one
            print(f"error: {error}", file=sys.stderr, flush=True)
            os._exit(1)
        else:
            # without its message, which might hold the prompt
            print(f"unexpected {type(error).__name__} in a request", file=sys.stderr)
            traceback.print_tb(error.__traceback__)
            sys.stderr.flush()
            self.send(Kind.FAILED, call)

    async def _flush_journal(self, call: int) -> None:
        await self._worker.flush()
        self.send(Kind.FLUSH, call)

    async def _say_stats(self, call: int) -> None:
        self.send(Kind.STATS, call, (await self._worker.stats()).to_json())

    def _keep(self, task: asyncio.Task[Any]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def listen(worker: Worker, door: Door, host: str) -> tuple[asyncio.Server, str]:
    """Listens in the door's folder if that is on this machine, else on a free port of `host`, this machine's address.

    Returns:
        The server, and the address for `connect`.
    """
    loop = asyncio.get_running_loop()
    if door.is_here:
        path = Path(door.folder) / f"worker-{secrets.token_hex(4)}"
        return await loop.create_unix_server(lambda: WorkerSocket(worker, door.secret), path), f"{UNIX}{path}"
    # asyncio turns Nagle's algorithm off only where the protocol is named
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind((host, 0))
    server = await loop.create_server(lambda: WorkerSocket(worker, door.secret), sock=listener)
    return server, f"{TCP}{host}:{listener.getsockname()[1]}"
