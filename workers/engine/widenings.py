"""Steps from one width to a wider one, for requests whose drafts come equally far."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from trimode.workers.engine.hindsight import widths_up_to


class Widening(NamedTuple):
    """A step from one width to a wider one, for all requests of one group."""

    gain: float
    """Of speed per row. The best come first."""
    group: int
    """Number of the requests with this menu and this level of difficulty."""
    speed: float
    """What the speed to the power of FAIRNESS grows by."""
    rows: int
    width: int
    """After the step."""


def widenings_of(group: int, speeds: Sequence[float], least: int = 1) -> list[Widening]:
    """Returns the widenings of one group, the best first: only those that some price of a row makes the best.

    Args:
        group: its number.
        speeds: by number of the width, to the power of FAIRNESS.
        least: width to begin at.
    """
    widths = widths_up_to(len(speeds))
    found: list[Widening] = []
    now = widths.index(least)
    while True:
        wider = [
            Widening((speeds[i] - speeds[now]) / (widths[i] - widths[now]), group, speeds[i] - speeds[now],
                      widths[i] - widths[now], i)
            for i in range(now + 1, len(widths))
            if speeds[i] > speeds[now]
        ]  # fmt: skip
        if not wider:
            return found
        best = max(wider, key=lambda widening: widening.gain)
        now = best.width
        found.append(best._replace(width=widths[now]))
