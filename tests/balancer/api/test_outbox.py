"""Streams over real sockets: their parts are written past the task that answers, in order and each once."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from trimode.balancer.api import connections
from trimode.balancer.api.chunks import Chunks, StreamOptions
from trimode.balancer.api.outbox import Outbox
from trimode.balancer.api.requests import parse_chat
from trimode.balancer.api.vocabulary import NO_VOCABULARY
from trimode.core.delta import Delta, OnDelta
from trimode.core.protocol import Generation, Mode
from trimode.tests.balancer.api.test_connections import serving
from trimode.tests.fakes.app import CHAT, COMPLETIONS, HELLO, AppBench
from trimode.tests.fakes.events import Events, read_events
from trimode.tests.fakes.worker import PlainWorker, generation


class TurnWorker(PlainWorker):
    """Says these texts, those of one list in one turn of the event loop."""

    def __init__(self, turns: Sequence[Sequence[str]]) -> None:
        super().__init__()
        self.turns = turns
        self.num_said = 0

    async def generate(self, fields: Mapping[str, Any], on_delta: OnDelta | None = None) -> Generation:
        for texts in self.turns:
            await asyncio.sleep(0.001)
            for text in texts:
                if on_delta is not None:
                    on_delta(Delta(token_ids=[1], text=text))
                self.num_said += 1
        text = "".join(text for texts in self.turns for text in texts)
        return generation(request_id=str(fields["request_id"]), text=text)


def request(path: str, body: Mapping[str, Any]) -> bytes:
    """A request for a stream, as bytes."""
    content = json.dumps({"stream": True, **body}).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


def unchunked(reply: bytes) -> tuple[Events, int, bytes]:
    """The events of a reply in chunked coding, the number of its chunks, and what follows it."""
    _, _, rest = reply.partition(b"\r\n\r\n")
    text, num_chunks = b"", 0
    while True:
        line, _, rest = rest.partition(b"\r\n")
        size = int(line, 16)
        text, end, rest = text + rest[:size], rest[size : size + 2], rest[size + 2 :]
        assert end == b"\r\n"
        if size == 0:
            return read_events(text.decode()), num_chunks, rest
        num_chunks += 1


async def ask(worker: PlainWorker, *messages: bytes) -> bytes:
    async with serving(AppBench(lambda: worker, num_workers=1).app()) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"".join(messages).replace(b"Host: x\r\n", b"Host: x\r\nConnection: close\r\n"))
        reply = await reader.read()
        writer.close()
    return reply


@pytest.mark.parametrize(("path", "body"), [(CHAT, {"messages": HELLO}), (COMPLETIONS, {"prompt": "a"})])
def test_all_parts_come_once_and_in_order(path: str, body: Mapping[str, Any]) -> None:
    turns = [[f'<{turn}.{part} "\\ \u20ac\n>' for part in range(turn % 4)] for turn in range(40)]
    events, _, rest = unchunked(asyncio.run(ask(TurnWorker(turns), request(path, body))))
    assert events.text() == "".join(text for texts in turns for text in texts)
    assert events.finish_reasons() == ["stop"]
    assert rest == b""
    assert all(choice["logprobs"] is None for chunk in events.chunks for choice in chunk["choices"])


def test_the_parts_of_one_turn_are_one_chunk_and_so_is_the_end() -> None:
    turns = [["a"], ["b", "c", "d"], ["e", "f"]]
    events, num_chunks, _ = unchunked(asyncio.run(ask(TurnWorker(turns), request(CHAT, {"messages": HELLO}))))
    assert events.text() == "abcdef"
    assert num_chunks == 4  # the role with the first part, two turns, and the end


def test_a_client_that_reads_late_gets_everything_in_order() -> None:
    turns = [[f"{turn:06d}" + "x" * 50_000] for turn in range(200)]

    async def test() -> None:
        worker = TurnWorker(turns)
        async with serving(AppBench(lambda: worker, num_workers=1).app()) as port:
            connection = socket.socket()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", port))
            connection.setblocking(False)
            reader, writer = await asyncio.open_connection(sock=connection, limit=4096)
            writer.write(request(CHAT, {"messages": HELLO}).replace(b"Host: x", b"Host: x\r\nConnection: close"))
            while worker.num_said < 150:
                await asyncio.sleep(0.01)
            reply = b""
            while part := await reader.read(50_000):
                reply += part
            writer.close()
        events, num_chunks, _ = unchunked(reply)
        assert events.text() == "".join(text for texts in turns for text in texts)
        assert num_chunks < 190  # so some waited for the client

    asyncio.run(test())


def test_the_stream_of_a_pipelined_request_waits_for_its_turn() -> None:
    turns = [["a"], ["b"], ["c"]]
    message = request(CHAT, {"messages": HELLO})
    first, second = message, message.replace(b"Host: x\r\n", b"Host: x\r\nConnection: close\r\n")

    async def test() -> bytes:
        async with serving(AppBench(lambda: TurnWorker(turns), num_workers=1).app()) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(first + second)
            reply = await reader.read()
            writer.close()
        return reply

    events, _, rest = unchunked(asyncio.run(test()))
    assert events.text() == "abc"
    again, _, rest = unchunked(rest)
    assert again.text() == "abc"
    assert rest == b""


def test_parts_are_written_past_the_task_of_the_reply(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bytes] = []
    write = connections.ChunkWriter.write

    def noted(self: connections.ChunkWriter, part: bytes) -> None:
        written.append(part)
        write(self, part)

    monkeypatch.setattr(connections.ChunkWriter, "write", noted)
    asyncio.run(ask(TurnWorker([["a"], ["b"], ["c"]]), request(CHAT, {"messages": HELLO})))
    assert [json.loads(part[len(b"data: ") :])["choices"][0]["delta"]["content"] for part in written] == ["b", "c"]


def test_an_outbox_calls_once_at_the_end_of_the_turn() -> None:
    async def test() -> None:
        outbox, called = Outbox(), list[str]()
        outbox.add(lambda: called.append("a"))
        outbox.add(lambda: called.append("b"))
        assert called == []
        await asyncio.sleep(0)
        assert called == ["a", "b"]
        await asyncio.sleep(0)
        assert called == ["a", "b"]

    asyncio.run(test())


class NotedWriter:
    """Takes parts at any time."""

    ready = True

    def __init__(self) -> None:
        self.written = b""

    def write(self, part: bytes) -> None:
        self.written += part


def test_nothing_is_written_past_a_task_that_is_awake_and_may_hold_an_earlier_part() -> None:
    async def test() -> None:
        options = StreamOptions(include_usage=False, denoise=False)
        parsed = parse_chat({"messages": HELLO}, Mode.ar)
        chunks = Chunks({"id": "i"}, parsed, options, NO_VOCABULARY, Outbox(), chat=True)
        chunks.add(0, Delta(text="first"))
        chunks.take()
        writer = chunks.writer = NotedWriter()
        chunks.add(0, Delta(text="awake"))  # the task that sends is not in `wait`
        await asyncio.sleep(0)
        assert writer.written == b""
        assert b"awake" in chunks.take()
        sender = asyncio.ensure_future(chunks.wait())
        await asyncio.sleep(0)
        chunks.add(0, Delta(text="waiting"))
        await asyncio.sleep(0)
        assert b"waiting" in writer.written
        assert not sender.done()
        chunks.add(0, Delta(text="late"))
        chunks.wake()
        await sender
        assert b"late" not in writer.written
        assert b"late" in chunks.take()

    asyncio.run(test())
