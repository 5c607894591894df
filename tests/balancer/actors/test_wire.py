"""Frames between the balancer and a worker: every message comes once and in order, however many go at a time."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trimode.balancer.actors import wire
from trimode.balancer.actors.wire import LENGTH, Kind, Message, Wire


class Noting(Wire):
    """Notes what comes."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[Message] = []

    def receive(self, message: Message) -> None:
        self.messages.append(message)


class Memory(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []

    def write(self, data: Any) -> None:
        self.written.append(bytes(data))


async def carried(messages: list[list[object]], part: int = 1 << 20) -> tuple[list[Message], list[bytes]]:
    """What comes of messages that are sent in one turn, and the frames. The stream comes in parts of this size."""
    sender, receiver, memory = Noting(), Noting(), Memory()
    sender.connection_made(memory)
    for message in messages:
        sender.send(*message)
    await asyncio.sleep(0)
    stream = b"".join(memory.written)
    for start in range(0, len(stream), part):
        receiver.data_received(stream[start : start + part])
    return receiver.messages, memory.written


@given(
    kinds=st.lists(st.sampled_from([Kind.DELTA, Kind.DELTA, Kind.DELTA, Kind.RESULT, Kind.STATS]), max_size=40),
    part=st.integers(1, 400),
    most=st.integers(1, 5),
)
def test_messages_come_once_and_in_order(kinds: list[Kind], part: int, most: int) -> None:
    messages: list[list[object]] = [
        [kind, number, {"text": '€ " \\ \n', "n": None}] for number, kind in enumerate(kinds)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wire, "MOST_PARTS", most)
        received, frames = asyncio.run(carried(messages, part))
    assert received == messages
    assert len(frames) == bool(messages)


def test_large_messages_have_frames_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "FULL_FRAME_BYTES", 1000)
    messages: list[list[object]] = [[Kind.RESULT, number, "x" * 1000] for number in range(3)]
    received, frames = asyncio.run(carried([[Kind.DELTA, 9, "y"], *messages]))
    assert received == [[Kind.DELTA, 9, "y"], *messages]
    assert [len(json.loads(frame[LENGTH.size :])) for frame in frames] == [2, 1, 1]
