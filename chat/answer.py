"""An answer while it comes and when it is whole, and what gives answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from trimode.chat.settings import Settings

Message = dict[str, str]
"""`role` (system, user, assistant) and `content`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """What an answer cost. None where the server does not say it."""

    tokens: int | None
    seconds: float
    """Without the time in a queue."""
    first_token_s: float | None = None
    nfe: int | None = None
    acceptance_lengths: tuple[int, ...] = ()

    def parts(self) -> list[str]:
        """Returns what is known, each with its unit: NFE first, as the public reference's scripts print it."""
        found = []
        if self.nfe is not None:
            found.append(f"NFE={self.nfe}")
        if self.tokens is not None:
            found.append(f"{self.tokens} tokens")
            if self.seconds > 0:
                found.append(f"{self.tokens / self.seconds:.1f} tok/s")
        if self.nfe and self.tokens is not None:
            found.append(f"TPF {self.tokens / self.nfe:.2f}")
        if self.acceptance_lengths:
            found.append(f"{sum(self.acceptance_lengths) / len(self.acceptance_lengths):.2f} accepted per verify")
        if self.first_token_s is not None:
            found.append(f"first token {self.first_token_s:.2f} s")
        return [*found, f"{self.seconds:.2f} s"]

    def line(self) -> str:
        """Returns one line for people."""
        return f"[{', '.join(self.parts())}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A whole answer."""

    text: str
    finish_reason: str
    """`stop` or `length`."""
    stats: Stats


class Answerer(Protocol):
    """What gives answers: a model in this process, or a running server."""

    @property
    def name(self) -> str:
        """What the model is called."""

    @property
    def modes(self) -> Sequence[str]:
        """Modes that can be chosen; empty if a server does not say any."""

    def answer(self, messages: Sequence[Message], settings: Settings) -> AsyncIterator[str | Reply]:
        """Yields the parts of the text as they come, and the whole answer at last.

        Raises GenerationError for a request that is refused, WorkerError if nobody answers.
        """

    def close(self) -> None:
        """Ends what was started."""
