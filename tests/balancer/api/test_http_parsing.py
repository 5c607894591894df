"""How the stream of a connection is read: what is refused, what is bounded, and the order of pipelined requests."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from starlette.types import Receive, Scope, Send
from trimode.balancer.api import connections
from trimode.tests.balancer.api.test_connections import HEALTH, run, say, serving

POST = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
CLOSING = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
BODY = b'{"prompt": "hello", "max_tokens": 3}'


async def refused(*parts: bytes) -> tuple[int, str]:
    """Returns status and message of the one reply, after which the server closes the connection."""
    async with serving() as port:
        status, body = await say(port, *parts)
    return status, body["error"]["message"]


async def replies(*parts: bytes) -> list[int]:
    """Returns the status of each reply up to the end of the connection."""
    async with serving() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0.01)
        lines = (await reader.read()).replace(b"}HTTP/1.1 ", b"}\r\nHTTP/1.1 ").split(b"\r\n")
        writer.close()
    return [int(line.split()[1]) for line in lines if line.startswith(b"HTTP/1.1 ")]


@pytest.mark.parametrize(
    "request_bytes",
    [
        POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        POST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
        POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        POST + b"Content-Length: 2, 2\r\n\r\n{}",
        POST + b"Content-Length: +2\r\n\r\n{}",
        POST + b"Content-Length: -2\r\n\r\n{}",
        POST + b"Content-Length: 0x2\r\n\r\n{}",
        POST + b"Content-Length: 2 2\r\n\r\n{}",
        POST + b"Content-Length:\r\n\r\n{}",
        POST + b"Content-Length: 99999999999999999999999\r\n\r\n{}",
        POST + b"Transfer-Encoding: gzip\r\n\r\n{}",
        POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        CHUNKED + b"zz\r\n{}\r\n",
        CHUNKED + b"-1\r\n{}\r\n",
        CHUNKED + b"2\r\n{}0\r\n\r\n",
        CHUNKED + b"2\n{}\r\n0\r\n\r\n",
        CHUNKED + b"fffffffffffffffff\r\n{}\r\n",
    ],
)
def test_a_body_whose_end_is_in_doubt_is_refused(request_bytes: bytes) -> None:
    status, message = asyncio.run(refused(request_bytes))
    assert status == 400, message


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (b"GET /health HTTP/1.1\nHost: x\n\n", "not valid HTTP"),
        (b"GET /health HTTP/1.1\r\nHost: x\nAccept: a\r\n\r\n", "not valid HTTP"),
        (b"GET /health HTTP/1.1\r\nHost: x\rAccept: a\r\n\r\n", "not valid HTTP"),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n", "not valid HTTP"),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nA\x00: b\r\n\r\n", "not valid HTTP"),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nA: b\x00\r\n\r\n", "not valid HTTP"),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n", "not valid HTTP"),
        (b"GET /health HTTP/1.1\r\n Host: x\r\n\r\n", "not valid HTTP"),
        (b"GET  HTTP/1.1\r\nHost: x\r\n\r\n", "not valid HTTP"),
        (b"GET /he alth HTTP/1.1\r\nHost: x\r\n\r\n", "not valid HTTP"),
        (b"GET /h\xc3\xa4 HTTP/1.1\r\nHost: x\r\n\r\n", "not valid HTTP"),
        (b"FOO /health HTTP/1.1\r\nHost: x\r\n\r\n", "not valid HTTP"),
        (b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n", "not valid HTTP"),
        (b"GET /health\r\n\r\n", "got HTTP/0.9; valid: HTTP/1.1"),
        (b"GET /health HTTP/3.7\r\nHost: x\r\n\r\n", "not valid HTTP"),
        (b"GET /health HTTP/2.0\r\nHost: x\r\n\r\n", "got HTTP/2.0; valid: HTTP/1.1"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP"),
        (b"GET /health HTTP/1.1\r\n\r\n", "one Host header; got 0"),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", "one Host header; got 2"),
        (b"GET /health HTTP/1.0\r\nHost: x\r\nHost: x\r\n\r\n", "one Host header; got 2"),
    ],
)
def test_a_bad_head_is_refused(head: bytes, message: str) -> None:
    status, said = asyncio.run(refused(head))
    assert (status, message in said) == (400, True), said


@pytest.mark.parametrize(
    "head",
    [
        b"GET /health HTTP/1.0\r\n\r\n",
        b"\r\n\r\n" + CLOSING,
        b"GET http://x/health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Latin: \xe4\r\n\r\n",
    ],
)
def test_an_unusual_head_is_answered(head: bytes) -> None:
    assert asyncio.run(replies(head)) == [200]


@pytest.mark.parametrize(
    "stream",
    [
        [b"GET /" + b"a" * 200_000],
        [b"GET /health HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 200_000],
        [b"GET /health HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 40_000],
        [b"\r\n" * 100_000],
        [b"GET /health HTTP/1.1\r\nHost: x\r\nA: ", *[b"a" * 1500] * 50],
        [b"GET /health HTTP/1.1\r\nHost: x\r\n", *[b"A: b\r\n" * 200] * 60],
        [CHUNKED, b"2;", *[b"a" * 1500] * 50],
        [CHUNKED, b"2\r\n{}\r\n0\r\n", *[b"A: b\r\n" * 200] * 60],
        [CHUNKED, b"2\r\n{}\r\n0\r\nA: ", *[b"a" * 1500] * 50],
    ],
    ids=[
        "url",
        "value",
        "headers",
        "empty lines",
        "slow value",
        "slow headers",
        "chunk",
        "trailers",
        "trailer",
    ],
)
def test_what_never_ends_is_refused_at_the_limit(stream: list[bytes]) -> None:
    async def test() -> None:
        async with serving() as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            answer = asyncio.ensure_future(reader.readuntil(b"\r\n\r\n"))
            sent = 0
            parts = [part[at : at + 3000] for part in stream for at in range(0, len(part), 3000)]
            while parts and not answer.done():
                sent += len(parts[0])
                writer.write(parts.pop(0))
                await asyncio.sleep(0.001)
            assert b" 431 Request Header Fields Too Large" in await answer
            assert sent > connections.MOST_HEAD_BYTES
            writer.close()

    run(test())


def test_a_large_head_below_the_limit_is_read() -> None:
    head = CLOSING[:-2] + b"A: " + b"a" * 60_000 + b"\r\n\r\n"
    assert asyncio.run(replies(*[head[at : at + 9000] for at in range(0, len(head), 9000)])) == [200]


def test_a_body_in_many_small_chunks_is_read() -> None:
    body = BODY + b" " * 20_000
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
    assert asyncio.run(replies(CHUNKED + chunks + b"0\r\n\r\n", CLOSING)) == [200, 200]


def test_trailers_are_no_headers() -> None:
    plain = CHUNKED.replace(b"Content-Type: application/json\r\n", b"")
    body = b"%x\r\n%s\r\n0\r\nContent-Type: application/json\r\n\r\n" % (len(BODY), BODY)
    assert asyncio.run(replies(plain + body, CLOSING)) == [415, 200]


def test_pipelined_requests_are_answered_in_order() -> None:
    missing = b"GET /missing HTTP/1.1\r\nHost: x\r\n\r\n"
    whole = POST + b"Content-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
    stream = (HEALTH + missing + whole + missing) * 20 + CLOSING
    expected = [200, 404, 200, 404] * 20 + [200]
    assert asyncio.run(replies(stream)) == expected
    assert asyncio.run(replies(*[stream[at : at + 97] for at in range(0, len(stream), 97)])) == expected


def test_many_pipelined_requests_are_not_parsed_before_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    longest = 0
    parsed = connections.Connection.on_headers_complete

    def counted(connection: connections.Connection) -> None:
        nonlocal longest
        parsed(connection)
        longest = max(longest, len(connection.pipeline))

    monkeypatch.setattr(connections.Connection, "on_headers_complete", counted)
    assert asyncio.run(replies(HEALTH * 5000 + CLOSING)) == [200] * 5001
    assert 1 < longest <= connections.SLICE_BYTES // len(HEALTH)


@pytest.mark.parametrize("cut", [0, 1, 12])
def test_bad_http_after_a_request_does_not_disturb_its_reply(cut: int) -> None:
    bad = b"nonsense\r\n\r\n"
    assert asyncio.run(replies(HEALTH + bad[:cut], bad[cut:])) == [200, 400]


def test_a_bad_body_of_a_pipelined_request_is_refused_in_its_turn() -> None:
    assert asyncio.run(replies(HEALTH + CHUNKED + b"zz\r\n")) == [200, 400]


def test_bad_http_in_a_body_ends_a_reply_that_has_begun() -> None:
    async def app(_scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass
        await send({"type": "http.response.body", "body": b"two and"})

    async def test() -> None:
        async with serving(app) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(CHUNKED)
            await reader.readuntil(b"one")
            writer.write(b"zz\r\n")
            assert await reader.read() == b""
            writer.close()

    run(test())


def test_a_running_request_hears_of_a_lost_client_that_has_sent_another_one() -> None:
    async def test() -> None:
        begun, ended = asyncio.Event(), asyncio.Event()

        async def app(_scope: Scope, receive: Receive, _send: Send) -> None:
            await receive()
            begun.set()
            while (await receive())["type"] != "http.disconnect":
                pass
            ended.set()

        async with serving(app) as port:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(HEALTH * 2)
            await begun.wait()
            writer.close()
            await ended.wait()

    run(test())


@pytest.mark.parametrize("protocol", [b"websocket", b"h2c"])
def test_an_upgrade_is_ignored_and_the_next_request_answered(protocol: bytes) -> None:
    head = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: " + protocol + b"\r\n\r\n"
    assert asyncio.run(replies(head + head + CLOSING)) == [200, 200, 200]
    assert asyncio.run(replies(*itertools.chain([head], [head], [CLOSING]))) == [200, 200, 200]


def test_a_client_that_waits_for_100_continue_gets_it() -> None:
    head = POST + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(BODY)
    assert asyncio.run(replies(head, BODY, CLOSING)) == [100, 200, 200]


def test_head_and_options_are_answered_without_a_body() -> None:
    head = b"HEAD /health HTTP/1.1\r\nHost: x\r\n\r\n"
    assert asyncio.run(replies(head, CLOSING)) == [200, 200]
