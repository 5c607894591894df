"""One HTTP connection: how many there may be, how long a client may take for the head of a request, and bad HTTP."""

from __future__ import annotations

import asyncio
import json
import resource

import httptools
from trimode.balancer.api.outbox import EXTENSION
from trimode.balancer.api.replies import error_body
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

HEAD_S = 30.0
"""Seconds in which the whole head of a request must arrive, counted from the connection or from its first byte."""
STALL_S = 600.0
"""Seconds for which a client may read nothing of a reply that waits for it."""
MOST_HEAD_BYTES = 64 << 10
"""Bytes that may come without completing a head or adding to a body. The parser has no limit of its own."""
SLICE_BYTES = 8 << 10
"""Bytes that the parser gets at a time. This bounds how many pipelined requests are parsed before their turn."""
MOST_CONNECTIONS = 8192
OTHER_FILES = 512
"""Open files that are kept for the workers, for Ray and for logs."""
_PHRASES = {
    400: "Bad Request",
    408: "Request Timeout",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}


def most_connections() -> int:
    """Returns how many connections may be open: fewer where this process may not open so many files."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_CONNECTIONS if files == resource.RLIM_INFINITY else min(MOST_CONNECTIONS, max(16, files - OTHER_FILES))


class _BadHeadError(Exception):
    """The parser reads this head, but the server does not accept it."""


class ChunkWriter:
    """Writes parts of a reply in HTTP's chunked coding."""

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle

    @property
    def ready(self) -> bool:
        """True if a part can be written now."""
        cycle = self._cycle
        begun = cycle.response_started and bool(cycle.chunked_encoding) and not cycle.response_complete
        return begun and not cycle.disconnected and not cycle.flow.write_paused

    def write(self, part: bytes) -> None:
        """Writes a part, which must not be empty: an empty one would end the reply."""
        self._cycle.transport.write(b"%x\r\n%b\r\n" % (len(part), part))


class Connection(HttpToolsProtocol):
    """uvicorn's connection with limits. What cannot be read as HTTP gets an OpenAI error body and is closed."""

    _head_timer: asyncio.TimerHandle | None = None
    _stall_timer: asyncio.TimerHandle | None = None
    _answered: RequestResponseCycle | None = None
    """The request whose reply is next on the wire. `cycle` is the latest one that was parsed."""
    _in_head = False
    """True while the parser is inside a head."""
    _progress = False
    """True if the parser has completed a head, or got a part of a body, since this was last cleared."""
    _pending_bytes = 0
    """Bytes that came since then."""
    _held = b""
    """What came after a whole request that is still to be answered; it is not parsed yet."""
    _refusal: tuple[int, str] | None = None
    """Status and message for what follows the requests that are still to be answered."""

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
        self._disconnect()  # uvicorn does so for the latest request alone

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
        if self.transport.is_closing() or self._refusal is not None:
            return
        self._unset_keepalive_if_required()
        at = 0
        while at < len(data):
            if self._busy():
                self._held += data[at:]
                self.flow.pause_reading()
                break
            part = data[at : at + SLICE_BYTES]
            try:
                at += self._parse(part)
            except httptools.HttpParserError as error:
                self.logger.warning("Invalid HTTP request received.")
                self._refuse_in_turn(*_cause(error))
                break
            if self._pending_bytes > MOST_HEAD_BYTES:
                self._refuse_in_turn(
                    431, f"the head, a chunk's extension or the trailers exceed {MOST_HEAD_BYTES} bytes"
                )
                break
        if self._unanswered():
            self._head_has_come()
        elif self._head_timer is None and not self.transport.is_closing():
            self._await_head()

    def on_message_begin(self) -> None:
        """Called by the parser at the first byte of a request."""
        self._in_head = True
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser. Trailers come here too: they are dropped, since they are no part of the head."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Called by the parser when a head is complete."""
        self._in_head, self._progress = False, True
        _check_head(self.parser.get_http_version(), self.headers)
        super().on_headers_complete()
        self.scope["extensions"] = {EXTENSION: {"writer": ChunkWriter(self.cycle)}}
        if not self.pipeline:
            self._answered = self.cycle

    def on_body(self, body: bytes) -> None:
        """Called by the parser with any part of a body."""
        self._progress = True
        super().on_body(body)

    def on_response_complete(self) -> None:
        """Called by uvicorn after the last byte of a reply."""
        following = self.pipeline[-1][0] if self.pipeline else None
        if self._refusal is not None and (following is None or following.more_body):
            self._refuse(*self._refusal)
        super().on_response_complete()  # starts the following request
        if self.transport.is_closing():
            return
        if following is not None:
            self._answered = following
        if self._held and not self._busy():
            held, self._held = self._held, b""
            self.data_received(held)
        elif self._in_head and not self._unanswered():
            self._await_head()

    def _parse(self, part: bytes) -> int:
        """Gives the parser a part of the stream. Returns how many bytes it has read: fewer if it saw an `Upgrade`."""
        self._progress = False
        num_read = len(part)
        try:
            self.parser.feed_data(part)
        except httptools.HttpParserUpgrade as upgrade:
            num_read = upgrade.args[0]  # no protocol is offered, so what follows is HTTP
        self._pending_bytes = 0 if self._progress else self._pending_bytes + num_read
        return num_read

    def _unanswered(self) -> bool:
        """True if a request is being answered."""
        return self._answered is not None and not self._answered.response_complete

    def _busy(self) -> bool:
        """True if a whole request is being answered, so that what follows has to wait."""
        return self._answered is not None and not self._answered.response_complete and not self._answered.more_body

    def _disconnect(self) -> None:
        """Lets the request that is being answered know that its client is gone."""
        if self._answered is not None and not self._answered.response_complete:
            self._answered.disconnected = True
            self._answered.message_event.set()

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

    def _refuse_in_turn(self, status: int, message: str) -> None:
        """Refuses what was read last, after the replies to the whole requests before it."""
        if self._busy():
            self._refusal = status, message
            self.flow.pause_reading()
        else:
            self._refuse(status, message)

    def _refuse(self, status: int, message: str, more: str = "") -> None:
        if self.transport.is_closing():
            return
        begun = self._answered is not None and self._unanswered() and self._answered.response_started
        self._disconnect()
        if not begun:  # otherwise the client would take this for a part of the reply
            body = json.dumps(error_body(message, status)).encode()
            head = (
                f"HTTP/1.1 {status} {_PHRASES[status]}\r\ncontent-type: application/json\r\nconnection: close\r\n{more}"
            )
            self.transport.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        self.transport.close()


def _check_head(version: str, headers: list[tuple[bytes, bytes]]) -> None:
    """Raises _BadHeadError for what the parser lets through, but what could be read in two ways."""
    if version not in ("1.0", "1.1"):
        raise _BadHeadError(f"got HTTP/{version}; valid: HTTP/1.1")
    names = [name for name, _ in headers]
    num_hosts = names.count(b"host")
    if num_hosts > 1 or (num_hosts == 0 and version == "1.1"):
        raise _BadHeadError(f"a head must hold one Host header; got {num_hosts}")
    if b"transfer-encoding" in names:
        codings = [value.lower() for name, value in headers if name == b"transfer-encoding"]
        if codings != [b"chunked"]:
            raise _BadHeadError("transfer-encoding: valid: chunked")


def _cause(error: httptools.HttpParserError) -> tuple[int, str]:
    """Returns status and message for what the parser or a check of the head has refused."""
    if isinstance(error.__context__, _BadHeadError):
        return 400, str(error.__context__)
    reason = "" if isinstance(error, httptools.HttpParserCallbackError) else f": {error}"
    return 400, f"the request is not valid HTTP{reason}"
