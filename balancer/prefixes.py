"""Which worker has computed the beginning of a prompt: repeats and later turns of a conversation are cheaper there."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MOST_KEYS = 16384
"""Beginnings that are remembered; the ones that were not used for longest go first. The caches of workers are small."""
CHARACTERS_PER_PART = 1024
IDS_PER_PART = 256
MOST_PARTS = 32
"""Parts of a text whose ends are remembered, from its beginning on; last messages of a conversation."""
CHARACTERS_PER_TOKEN = 4


@dataclass(frozen=True, slots=True)
class Beginning:
    """A beginning of a prompt."""

    key: int
    """Hash of its content."""
    tokens: int
    """Estimate of its length."""


def beginnings(fields: Mapping[str, Any]) -> list[Beginning]:
    """Returns the beginnings of a request's prompt, the shortest first: one per message, or one per part of a text."""
    messages, prompt, ids = (fields.get(name) for name in ("messages", "prompt", "prompt_ids"))
    if messages:
        parts = [(message["role"], message["content"]) for message in messages]
        sizes = [len(content) // CHARACTERS_PER_TOKEN for _, content in parts]
        return _chain(parts, sizes)
    if isinstance(prompt, str):
        cut = _cut(prompt, CHARACTERS_PER_PART)
        return _chain(cut, [len(part) // CHARACTERS_PER_TOKEN for part in cut])
    if ids:
        pieces = [tuple(part) for part in _cut(ids, IDS_PER_PART)]
        return _chain(pieces, [len(part) for part in pieces])
    return []


def _cut(whole: Sequence[Any], size: int) -> list[Any]:
    """Returns the first parts of a sequence, and the rest as the last one."""
    ends = [*range(0, len(whole), size)][:MOST_PARTS]
    return [whole[start : start + size] for start in ends[:-1]] + [whole[ends[-1] :]] if ends else []


def _chain(parts: Sequence[object], sizes: Sequence[int]) -> list[Beginning]:
    found, key, tokens = [], 0, 0
    for part, size in zip(parts, sizes, strict=True):
        key, tokens = hash((key, part)), tokens + size
        found.append(Beginning(key, tokens))
    return found[-MOST_PARTS:]


class Prefixes:
    """Remembers which slots were given which beginnings."""

    def __init__(self) -> None:
        self._slots: OrderedDict[int, set[int]] = OrderedDict()

    def find(self, parts: Sequence[Beginning]) -> tuple[set[int], int]:
        """Returns the slots that have the longest known of these beginnings, and its tokens; none and 0 if unknown."""
        for part in reversed(parts):
            if slots := self._slots.get(part.key):
                return slots, part.tokens
        return set(), 0

    def note(self, parts: Sequence[Beginning], slot: int) -> None:
        """Remembers that a slot was given a prompt with these beginnings."""
        for part in parts:
            self._slots.setdefault(part.key, set()).add(slot)
            self._slots.move_to_end(part.key)
        while len(self._slots) > MOST_KEYS:
            self._slots.popitem(last=False)

    def forget(self, slot: int) -> None:
        """Forgets what a slot had: its worker has died."""
        for slots in self._slots.values():
            slots.discard(slot)
