"""Reads a stream of server-sent events."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Events:
    """What one reply held, in order."""

    chunks: list[dict[str, Any]] = field(default_factory=list)
    denoise: list[dict[str, Any]] = field(default_factory=list)
    order: list[str] = field(default_factory=list)
    """`chunk`, `denoise` or `done` of each event."""

    def text(self, index: int = 0) -> str:
        choices = [choice for chunk in self.chunks for choice in chunk.get("choices", [])]
        own = [choice for choice in choices if choice["index"] == index]
        return "".join(choice["text"] if "text" in choice else choice["delta"].get("content", "") for choice in own)

    def finish_reasons(self) -> list[str]:
        choices = [choice for chunk in self.chunks for choice in chunk.get("choices", [])]
        return [choice["finish_reason"] for choice in choices if choice["finish_reason"] is not None]


def read_events(body: str) -> Events:
    """Reads a whole reply; it must end with [DONE]."""
    events = Events()
    *blocks, rest = body.split("\n\n")
    assert rest == ""
    for block in blocks:
        *names, data = block.split("\n")
        assert data.startswith("data: ")
        content = data.removeprefix("data: ")
        if content == "[DONE]":
            events.order.append("done")
        elif names == ["event: denoise"]:
            events.denoise.append(json.loads(content))
            events.order.append("denoise")
        else:
            assert names == []
            events.chunks.append(json.loads(content))
            events.order.append("chunk")
    assert events.order[-1] == "done"
    assert events.order.count("done") == 1
    return events
