"""Choosers of widths that follow a script, whatever comes of it."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field


@dataclass
class ScriptedChooser:
    """Gives the widths of its script in turn, and notes what it hears."""

    script: Iterator[int]
    heard: list[tuple[int, int, int]] = field(default_factory=list)
    plain_steps: int = 1

    @property
    def fixed_tokens(self) -> Mapping[int, float]:
        return {}

    def choose(self, most: int) -> int:
        assert most >= 1
        return min(next(self.script), most)

    def took(self, width: int, accepted: int, emitted: int, *, ended: bool) -> None:  # noqa: ARG002
        self.heard.append((width, accepted, emitted))


def random_widths(seed: object, most: int = 40) -> Iterator[int]:
    """Endless widths: often 1, else anything up to `most`."""
    chance = random.Random(str(seed))
    while True:
        yield 1 if chance.random() < 0.3 else chance.randint(1, most)
