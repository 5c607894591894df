"""Answers of a chat without a model."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from trimode.chat.answer import Message, Reply, Stats
from trimode.chat.settings import Settings
from trimode.core.errors import GenerationError

STATS = Stats(tokens=4, seconds=2.0, first_token_s=0.5, nfe=2, acceptance_lengths=(1, 2))
LINE = "[NFE=2, 4 tokens, 2.0 tok/s, TPF 2.00, 1.50 accepted per verify, first token 0.50 s, 2.00 s]"


class FakeAnswerer:
    """Repeats the question in parts. The question `refuse` is refused, and `stop` is stopped by Ctrl-C."""

    name = "fake"
    modes = ("ar", "dlm")

    def __init__(self) -> None:
        self.asked: list[tuple[list[Message], Settings]] = []
        self.closed = False

    async def answer(self, messages: Sequence[Message], settings: Settings) -> AsyncIterator[str | Reply]:
        self.asked.append((list(messages), settings))
        question = messages[-1]["content"]
        if question == "refuse":
            raise GenerationError("context: too long")
        yield "You said "
        if question == "stop":
            raise KeyboardInterrupt
        yield f"{question}."
        yield Reply(text=f"You said {question}.", finish_reason="stop", stats=STATS)

    def close(self) -> None:
        self.closed = True
