"""Numbers of things in messages: `1 job`, `2 jobs`."""

from __future__ import annotations


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Returns a number with its noun. `plural` is the noun with an s if it is not given."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"
