"""Parts of streamed replies that go to their connections at the end of a turn of the event loop.

One step of a worker brings a token for each of its requests. To wake the task of each request for its token takes
longer than to write it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

EXTENSION = "trimode.parts"
"""Name of the ASGI extension by which a connection offers a PartWriter, its `writer`, for the reply to a request."""


class PartWriter(Protocol):
    """Writes parts of one reply to its connection, past the task that answers the request."""

    @property
    def ready(self) -> bool:
        """True if a part can be written now: the reply has begun, and the client is there and keeps up."""

    def write(self, part: bytes) -> None:
        """Writes a part. It must be ready."""


class Outbox:
    """Calls at the end of this turn of the event loop, all together."""

    def __init__(self) -> None:
        self._writes: list[Callable[[], None]] = []

    def add(self, write: Callable[[], None]) -> None:
        """Has `write` called at the end of this turn."""
        if not self._writes:
            asyncio.get_running_loop().call_soon(self._flush)
        self._writes.append(write)

    def _flush(self) -> None:
        writes, self._writes = self._writes, []
        for write in writes:
            write()
