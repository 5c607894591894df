"""Closed-loop load: every caller sends its next request when it has the reply to the one before."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from trimode.core.worker import Worker

Ask = Callable[["Seen"], Awaitable[None]]
"""Sends one request and notes its times."""


@dataclass(slots=True)
class Seen:
    """What one caller saw. Seconds."""

    latencies: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    """From the request to its first token."""
    gaps: list[float] = field(default_factory=list)
    """Between two parts of an answer that have text."""
    tokens: int = 0

    def add(self, other: Seen) -> None:
        """Adds what another caller saw."""
        for item in dataclasses.fields(self):
            setattr(self, item.name, getattr(self, item.name) + getattr(other, item.name))


@dataclass(frozen=True, slots=True)
class Load:
    """One measurement."""

    seen: Seen
    seconds: float
    cpu_s: float = 0.0
    """Processor time of the processes that answered."""

    @property
    def cpu_ms(self) -> float:
        """Processor time per request in milliseconds."""
        return 1e3 * self.cpu_s / len(self.seen.latencies)

    @property
    def tokens_per_s(self) -> float:
        """Tokens of all callers per second."""
        return self.seen.tokens / self.seconds


def percentile(values: Sequence[float], percent: int) -> float:
    """Returns a percentile; NaN without values."""
    return statistics.quantiles(values, n=100)[percent - 1] if len(values) > 1 else float("nan")


async def run_callers(ask: Ask, callers: int, requests: int) -> Load:
    """Sends `requests` requests from `callers` callers at the same time, after one request each that is not counted."""
    left = requests
    seen = [Seen() for _ in range(callers)]

    async def call(own: Seen) -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await ask(own)

    await asyncio.gather(*(ask(Seen()) for _ in range(callers)))
    began = time.perf_counter()
    await asyncio.gather(*(call(own) for own in seen))
    seconds = time.perf_counter() - began
    total = Seen()
    for own in seen:
        total.add(own)
    return Load(total, seconds)


def ask_worker(worker: Worker, fields: Mapping[str, object], *, stream: bool) -> Ask:
    """Asks a worker in this process."""
    numbers = iter(range(10**9))

    async def ask(seen: Seen) -> None:
        began = last = time.perf_counter()
        parts = 0

        def on_part(_: object) -> None:
            nonlocal last, parts
            now = time.perf_counter()
            (seen.gaps if parts else seen.first).append(now - last)
            last, parts = now, parts + 1

        request = {**fields, "request_id": str(next(numbers))}
        generation = await worker.generate(request, on_part if stream else None)
        seen.latencies.append(time.perf_counter() - began)
        seen.tokens += len(generation.token_ids)

    return ask


def ask_server(port: int, body: Mapping[str, object], tokens: int, *, stream: bool) -> Ask:
    """Asks a server over connections that are kept, one per caller."""
    content = json.dumps({**body, "stream": stream}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(content)}\r\n"
    message = head.encode() + b"Content-Type: application/json\r\n\r\n" + content
    free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(seen: Seen) -> None:
        reader, writer = free.pop() if free else await asyncio.open_connection("127.0.0.1", port)
        began = time.perf_counter()
        writer.write(message)
        answer = await reader.readuntil(b"\r\n\r\n")
        if not answer.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(answer.decode())
        if stream:
            await _read_stream(reader, began, seen)
        else:
            lines = answer.lower().split(b"\r\n")
            length = next(line for line in lines if line.startswith(b"content-length:"))
            await reader.readexactly(int(length.split(b":")[1]))
        seen.latencies.append(time.perf_counter() - began)
        seen.tokens += tokens
        free.append((reader, writer))

    return ask


async def _read_stream(reader: asyncio.StreamReader, began: float, seen: Seen) -> None:
    """Reads the chunks of one reply, without the work that a client has with their content."""
    last, parts, end = began, 0, b""
    while not end.endswith(b"\r\n0\r\n\r\n"):
        data = await reader.read(1 << 16)
        if not data:
            raise RuntimeError("the stream broke off")
        end = (end + data)[-7:]
        if b'"content":"' in data.replace(b'"content":""', b""):
            now = time.perf_counter()
            (seen.gaps if parts else seen.first).append(now - last)
            last, parts = now, parts + 1
