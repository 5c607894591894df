"""One HTTP connection: how many there may be, how long a client may take for the head of a request, and bad HTTP."""

from __future__ import annotations

import asyncio
import json
import resource

from trimode.balancer.api.replies import error_body
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_S = 30.0
"""Seconds in which the whole head of a request must arrive, counted from the connection or from its first byte."""
STALL_S = 600.0
"""Seconds for which a client may read nothing of a reply that waits for it."""
MOST_CONNECTIONS = 8192
OTHER_FILES = 512
"""Open files that are kept for the workers, for Ray and for logs."""
_PHRASES = {400: "Bad Request", 408: "Request Timeout", 503: "Service Unavailable"}


def most_connections() -> int:
    """Returns how many connections may be open: fewer where this process may not open so many files."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_CONNECTIONS if files == resource.RLIM_INFINITY else min(MOST_CONNECTIONS, max(16, files - OTHER_FILES))


class Connection(H11Protocol):
    """uvicorn's connection with limits. What cannot be read as HTTP gets an OpenAI error body and is closed."""

    _head_timer: asyncio.TimerHandle | None = None
    _stall_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Called by asyncio."""
        super().connection_made(transport)
        if len(self.connections) > most_connections():
            self._refuse(503, "too many connections are open; try again later", "retry-after: 1\r\n")
            return
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio."""
        self._head_has_come()
        self._reads_again()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Called by asyncio when the client does not keep up with the reply."""
        super().pause_writing()
        self._stall_timer = self.loop.call_later(STALL_S, self.transport.abort)

    def resume_writing(self) -> None:
        """Called by asyncio when the client has read on."""
        self._reads_again()
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        """Called by asyncio with any part of the stream."""
        if self.transport.is_closing():
            return
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._head_has_come()
        elif self._head_timer is None:
            self._await_head()

    def send_400_response(self, msg: str) -> None:
        """Called by uvicorn for what is no HTTP."""
        self._refuse(400, msg)

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_S, self._too_slow)

    def _head_has_come(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _reads_again(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    def _too_slow(self) -> None:
        self._refuse(408, f"the head of the request did not arrive within {HEAD_S:g} s")

    def _refuse(self, status: int, message: str, more: str = "") -> None:
        if self.transport.is_closing():
            return
        body = json.dumps(error_body(message, status)).encode()
        head = f"HTTP/1.1 {status} {_PHRASES[status]}\r\ncontent-type: application/json\r\nconnection: close\r\n{more}"
        self.transport.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        self.transport.close()
