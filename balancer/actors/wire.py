"""Messages between the balancer and one worker's process over a socket of their own.

Ray starts and ends that process; the requests and their tokens do not pass through it. A frame is its length in four
bytes, then a JSON list of messages: all that was sent in one turn of the event loop. Each message is a list whose first
entry is a Kind.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum, unique
from pathlib import Path
from typing import Any

LENGTH = struct.Struct(">I")
MAX_FRAME_BYTES = 2**30
"""A longer frame ends the connection."""
MAX_HELLO_BYTES = 2**12
"""The same before the other end has proved who it is."""
MOST_PARTS = 64
"""Parts of answers that are encoded together: it takes a third of the time of one after another."""
FULL_FRAME_BYTES = 2**24
"""No further message is put into a frame of this size."""
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
"""Differs between machines, and between two starts of one."""


@unique
class Kind(IntEnum):
    """The first entry of a message, and what follows it."""

    NONCE = 0
    """Worker: a fresh random text."""
    PROOF = 1
    """Balancer: the code of the nonce under the secret. Until it has come the worker reads nothing else."""
    GENERATE = 2
    """Balancer: number of the call, fields, True if the parts of the answer are wanted."""
    CANCEL = 3
    """Balancer: request id."""
    STATS = 4
    """Balancer: number of the call. Worker: number of the call, the stats."""
    FLUSH = 10
    """Balancer: number of the call. Worker: the same, once the running requests are written down."""
    DELTA = 5
    """Worker: number of the call, a Delta."""
    RESULT = 6
    """Worker: number of the call, a Generation."""
    REFUSED = 7
    """Worker: number of the call, message and status of a GenerationError."""
    FAILED = 8
    """Worker: number of the call. An exception that nobody expected; the worker's log has it."""
    TEXT = 9
    """Balancer: number of the call, task, fields. Worker: number of the call, an object."""


Message = Sequence[Any]

_ENCODER = json.JSONEncoder(separators=(",", ":"), check_circular=False)


@dataclass(frozen=True, slots=True)
class Door:
    """Where a worker may listen, and the secret that the balancer shows there."""

    folder: str
    """Private folder of the balancer. A worker on the same machine listens on a unix socket in it."""
    boot_id: str
    """Of the balancer's machine."""
    secret: str

    @property
    def is_here(self) -> bool:
        """True if this process runs on the balancer's machine and sees its folder."""
        return boot_id() == self.boot_id and Path(self.folder).is_dir()


def boot_id() -> str:
    """Returns the id of this machine since its last start; empty where there is none."""
    try:
        return BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def proof(secret: str, nonce: str) -> str:
    """Returns what shows that the sender knows the secret, without saying it."""
    return hmac.new(secret.encode(), nonce.encode(), hashlib.sha256).hexdigest()


class Wire(asyncio.Protocol):
    """One end of the connection. Messages of one turn of the event loop travel in one frame."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._received = bytearray()
        self._outgoing: list[Message] = []
        self._max_frame_bytes = MAX_FRAME_BYTES

    def send(self, *message: object) -> None:
        """Sends a message at the end of this turn of the event loop. Does nothing once the connection is closed."""
        if not self._outgoing:
            self._loop.call_soon(self._flush)
        self._outgoing.append(message)

    def close(self) -> None:
        """Ends the connection."""
        if self._transport is not None:
            self._transport.abort()

    def receive(self, message: Message) -> None:
        """Takes one message. For subclasses."""
        raise NotImplementedError

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, _cause: Exception | None) -> None:
        """Called by asyncio."""
        self._transport = None

    def data_received(self, data: bytes) -> None:
        """Called by asyncio with any part of the stream."""
        self._received += data
        while len(self._received) >= LENGTH.size:
            (length,) = LENGTH.unpack_from(self._received)
            end = LENGTH.size + length
            if length > self._max_frame_bytes:
                self.close()
                return
            if len(self._received) < end:
                return
            messages = json.loads(self._received[LENGTH.size : end])
            del self._received[:end]
            for message in messages:
                self.receive(message)

    def _flush(self) -> None:
        messages, self._outgoing = self._outgoing, []
        frame: list[bytes] = []
        for group in _groups(messages):
            frame.append(_ENCODER.encode(group)[1:-1].encode())
            if len(frame[-1]) >= FULL_FRAME_BYTES:
                self._write(frame)
                frame = []
        self._write(frame)

    def _write(self, frame: list[bytes]) -> None:
        if frame and self._transport is not None:
            body = b"[" + b",".join(frame) + b"]"
            self._transport.write(LENGTH.pack(len(body)) + body)


def _groups(messages: Sequence[Message]) -> Iterator[Sequence[Message]]:
    """Yields the messages in order: parts of answers, which are small, some at a time, and any other one alone."""
    start = 0
    for end, message in enumerate(messages):
        if message[0] != Kind.DELTA or end - start == MOST_PARTS:
            if start < end:
                yield messages[start:end]
            start = end
        if message[0] != Kind.DELTA:
            yield messages[end : end + 1]
            start = end + 1
    if start < len(messages):
        yield messages[start:]
