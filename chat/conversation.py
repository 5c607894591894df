"""The turns of a conversation, and its file."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from trimode.chat.answer import Message
from trimode.core.errors import ConfigError
from trimode.core.files import write_text_atomic

FORMAT = 1
ROLES = ("user", "assistant")


@dataclass(slots=True)
class Conversation:
    """A system prompt and the turns after it."""

    system: str = ""
    turns: list[Message] = field(default_factory=list)

    def messages(self, user: str | None = None) -> list[Message]:
        """Returns the messages of a request, with a new user turn."""
        first = [{"role": "system", "content": self.system}] if self.system else []
        last = [] if user is None else [{"role": "user", "content": user}]
        return [*first, *self.turns, *last]

    def add(self, user: str, answer: str) -> None:
        """Adds a question and its answer."""
        self.turns += [{"role": "user", "content": user}, {"role": "assistant", "content": answer}]

    def take_back(self) -> str | None:
        """Removes the last question and its answer. Returns the question; None if there is none."""
        if not self.turns:
            return None
        question = self.turns[-2]["content"]
        del self.turns[-2:]
        return question

    def save(self, path: Path, facts: dict[str, object]) -> None:
        """Writes the conversation as JSON. `facts`: what else is worth keeping."""
        value = {"format": FORMAT, **facts, "system": self.system, "messages": self.turns}
        write_text_atomic(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def load(path: Path) -> Conversation:
    """Returns a saved conversation. Raises ConfigError for a file that is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"conversation {path} cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"conversation {path} is no JSON: {error}") from error
    turns = value.get("messages") if isinstance(value, dict) else None
    system = value.get("system", "") if isinstance(value, dict) else None
    whole = isinstance(turns, list) and len(turns) % 2 == 0 and isinstance(system, str)
    if not whole or not all(_is_turn(turn, ROLES[number % 2]) for number, turn in enumerate(turns or ())):
        raise ConfigError(f"conversation {path}: valid: what :save writes, turns of user and assistant one by one")
    assert isinstance(turns, list)
    return Conversation(str(system), [{"role": turn["role"], "content": turn["content"]} for turn in turns])


def _is_turn(turn: object, role: str) -> bool:
    return isinstance(turn, dict) and turn.get("role") == role and isinstance(turn.get("content"), str)
