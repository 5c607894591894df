"""Connections that are too many, too slow or no HTTP, over real sockets in this process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import pytest
import uvicorn
from starlette.types import ASGIApp
from trimode.balancer.api import connections, service
from trimode.balancer.api.connections import Connection
from trimode.tests.fakes.app import AppBench, StrictWorker

HEALTH = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"


@contextlib.asynccontextmanager
async def serving(app: ASGIApp | None = None) -> AsyncIterator[int]:
    """The balancer's app, or another one, on a free port."""
    app = app or AppBench(StrictWorker).app()
    config = uvicorn.Config(app, http=Connection, log_level="critical", lifespan="off")
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(config)
    work = asyncio.ensure_future(server._serve([listener]))
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        await work
        listener.close()


async def say(port: int, *parts: bytes) -> tuple[int, dict[str, Any]]:
    """Sends the parts, and returns status and body of the reply once the server has closed the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for part in parts:
        writer.write(part)
        await writer.drain()
        await asyncio.sleep(0.01)
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    return int(head.split()[1]), json.loads(body)


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)


@pytest.mark.parametrize("parts", [(), (b"GET /health HTTP/1.1\r\n", b"Host: x\r\n")])
def test_a_head_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, parts: tuple[bytes, ...]) -> None:
    async def test() -> None:
        monkeypatch.setattr(connections, "HEAD_S", 0.2)
        async with serving() as port:
            status, body = await say(port, *parts)
        assert status == 408
        assert "did not arrive within 0.2 s" in body["error"]["message"]

    run(test())


def test_the_second_head_of_a_connection_is_not_waited_for_either(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        monkeypatch.setattr(connections, "HEAD_S", 0.2)
        async with serving() as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(HEALTH)
            assert b"200 OK" in await reader.readuntil(b'"workers":2}')
            await asyncio.sleep(0.3)  # an idle connection may stay
            writer.write(b"GET /hea")
            assert b"408 Request Timeout" in await reader.read()
            writer.close()

    run(test())


def test_a_body_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        monkeypatch.setattr(service, "BODY_S", 0.2)
        async with serving() as port:
            head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 10\r\n"
            status, body = await say(port, head + b"Content-Type: application/json\r\n\r\n", b"{")
        assert status == 408
        assert "the body did not arrive" in body["error"]["message"]

    run(test())


def test_what_is_no_http_gets_an_error_body() -> None:
    async def test() -> None:
        async with serving() as port:
            status, body = await say(port, b"\x16\x03\x01 hello\r\n\r\n")
        assert status == 400
        assert set(body["error"]) == {"message", "type", "param", "code"}

    run(test())


def test_too_many_connections_are_refused_until_one_closes(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        monkeypatch.setattr(connections, "MOST_CONNECTIONS", 2)
        async with serving() as port:
            held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
            await asyncio.sleep(0.05)
            status, _ = await say(port)
            assert status == 503
            held[0][1].close()
            await asyncio.sleep(0.05)
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(HEALTH)
            assert b"200 OK" in await reader.readuntil(b"\r\n")
            for _, other in [*held, (reader, writer)]:
                other.close()

    run(test())


def test_a_client_that_reads_nothing_is_cut_off_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        monkeypatch.setattr(connections, "STALL_S", 0.2)
        async with serving() as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            reader._transport.pause_reading()  # type: ignore[attr-defined]
            for _ in range(4000):
                writer.write(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n")
            with pytest.raises(ConnectionError):
                while True:
                    writer.write(HEALTH)
                    await writer.drain()
                    await asyncio.sleep(0.01)

    run(test())
