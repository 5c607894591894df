"""The parts of the measurement, in order, and when each of them has to end. Nothing here needs torch."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

TOTAL_S = 520.0
"""The whole measurement; the report takes a second more. It must end within nine minutes."""


@dataclass(frozen=True, slots=True)
class Section:
    """One part, run in a process of its own."""

    name: str
    """Of the module `trimode.bench.gpu.<name>` too, whose function `run` does it."""
    seconds: float
    """Its part of the time. What the sections before it have left over is added."""
    interpreted: bool = False
    """True if a dry run takes it through Triton's interpreter, False if it takes the references of the CPU."""


SECTIONS = (
    Section("machine", 10),
    Section("cuda_tests", 70, interpreted=True),
    Section("ceilings", 10),
    Section("operators", 50, interpreted=True),
    Section("products", 35, interpreted=True),
    Section("steps", 95, interpreted=True),
    Section("modes", 105),
    Section("rivals", 28),
    Section("compiled_rival", 75),
    Section("demo", 42),
    Section("adaptive", 60),
)


def deadlines(total: float = TOTAL_S) -> dict[str, float]:
    """Returns the seconds since the start at which each section must have ended."""
    scale = total / sum(section.seconds for section in SECTIONS)
    ends = accumulate(section.seconds * scale for section in SECTIONS)
    return dict(zip((section.name for section in SECTIONS), ends, strict=True))
