"""What a step costs by its rows: measured when the engine starts, and kept true by the steps that run.

Only ratios of these times matter to those who choose widths. So a step corrects two things: slowly what all sizes have
in common, such as a busy machine or longer contexts, and what is particular to its own size.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Mapping

UNMEASURED = {1: 1.0, 64: 1.5, 1024: 10.0}
"""Times of an engine that has measured none, in any unit."""
_OWN_RATE = 0.1
_COMMON_RATE = 0.02
_LARGEST_CHANGE = math.log(4)
"""Of a time against its expectation. What is beyond is taken for a disturbance."""
_REFRESH = 32
"""Steps after which their times come into effect."""


class StepTimes:
    """Milliseconds of a step by its rows. They never fall as rows are added."""

    def __init__(self, measured: Mapping[int, float] = UNMEASURED, *, padded: bool = False) -> None:
        """Takes over measured times.

        Args:
            measured: milliseconds by rows, of at least two sizes.
            padded: True if a step of any other size runs as the next larger one of these, as graphs do.
        """
        self._sizes = sorted(measured)
        self._measured = [measured[size] for size in self._sizes]
        self._padded = padded
        self._common = 0.0
        """Logarithm of what all times are multiplied by; so is the next, of each size."""
        self._own = [0.0] * len(self._sizes)
        self._num_steps = 0
        self.version = 0
        """Changes with the times."""
        self._refresh()

    def at(self, rows: int) -> float:
        """Returns the milliseconds of a step of so many rows."""
        found = self._known.get(rows)
        if found is None:
            found = self._known[rows] = self._between(self._times, rows)
        return found

    def ran(self, rows: int, ms: float) -> None:
        """Takes in a step that ran."""
        if rows < 1 or ms <= 0:
            return
        expected = self._between(self._measured, rows)
        change = math.log(ms / expected) - self._common
        change = max(-_LARGEST_CHANGE, min(change, _LARGEST_CHANGE))
        self._num_steps += 1
        self._common += max(_COMMON_RATE, 1 / self._num_steps) * change
        near = min(range(len(self._sizes)), key=lambda i: abs(self._sizes[i] - rows))
        self._own[near] += _OWN_RATE * (change - self._own[near])
        if self._num_steps % _REFRESH == 0:
            self._refresh()

    def _refresh(self) -> None:
        scaled = (ms * math.exp(own + self._common) for ms, own in zip(self._measured, self._own, strict=True))
        self._times = list(itertools.accumulate(scaled, max))
        self._known: dict[int, float] = {}
        self.version += 1

    def _between(self, times: list[float], rows: int) -> float:
        """Returns the time of `rows` rows from the times of the sizes."""
        sizes = self._sizes
        above = bisect.bisect_left(sizes, rows)
        if above < len(sizes) and (self._padded or sizes[above] == rows or above == 0):
            return times[above]
        above = min(above, len(sizes) - 1)  # beyond the last size the last slope goes on
        low, high = sizes[above - 1], sizes[above]
        return times[above - 1] + (times[above] - times[above - 1]) * (rows - low) / (high - low)
