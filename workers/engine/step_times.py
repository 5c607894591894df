"""What a step costs by its rows and requests: measured when the engine starts, and kept true by the steps that run.

A step of so many requests takes `scale * correction * (time(rows) + each * (requests - 1))`. 64 rows of 64 requests
cost more than 64 rows of two, because the host packs and samples for every request. Both parts grow with the context,
because attention reads the keys of a request once and multiplies them with every row. That sum is off by up to a third,
so it is corrected on a grid of requests and rows per request, by what was measured there. Only ratios of these times
matter to those who choose widths.

Steps that run move the scale (a busy machine) and, beside it, the corrections around them. Those fade back to what was
measured, if no step confirms them.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

UNMEASURED = {1: 1.0, 64: 1.5, 1024: 10.0}
"""Times of an engine that has measured none, in any unit."""
_SCALE_RATE, _RATE = 0.08, 0.03
"""Share of the error of a step by which the scale moves, and the corrections around it."""
_SCALE_RATE_FAR = 0.2
"""The same of the scale where the error is `_FAR`, as when a machine became slower."""
_KEPT = 0.99
"""What is left of the change of a correction after `_REFRESH` steps."""
_FAR, _FARTHEST = 0.3, 0.7
"""Logarithm of a step's time by what was expected. What is beyond the second is taken for a disturbance."""
_CONTEXT_STEP, _CONTEXT_SHARE = 16.0, 0.1
"""Change of the context that counts: so many tokens and this share of it."""
_REFRESH = 16
"""Steps after which their times come into effect."""
Node = tuple[int, int]
"""Logarithms to base 2 of requests, and of rows per request."""


class StepTimes:
    """Milliseconds of a step by its rows and requests."""

    def __init__(
        self, measured: Mapping[int, float] = UNMEASURED, *, each: float = 0.0, padded: bool = False,
        slopes: Sequence[float] = (), each_slope: float = 0.0,
    ) -> None:  # fmt: skip
        """Takes over measured times.

        Args:
            measured: milliseconds by rows of one request without context, of at least two sizes.
            each: milliseconds that a further request adds, without its rows.
            padded: True if a step of any other size runs as the next larger one of these, as graphs do.
            slopes: what a token of context adds to the milliseconds of each size, in order of the sizes; empty = none.
            each_slope: what a token of context of a further request adds, without its rows.
        """
        self._sizes = sorted(measured)
        self._has_unit = measured is not UNMEASURED
        self._without_context = [*itertools.accumulate((measured[size] for size in self._sizes), max)]
        self._slopes, self._each, self._each_slope = slopes or [0.0] * len(self._sizes), each, each_slope
        self._context = 0.0
        self._padded = padded
        self._scale = 0.0
        """Its logarithm, as are the corrections."""
        self._measured: dict[Node, float] = {}
        """Corrections by what was measured when the engine started."""
        self._filled: dict[Node, float] = {}
        """The same, with those between and beside them."""
        self._changes: dict[Node, float] = {}
        """What steps have changed them by."""
        self._num_steps = 0
        self.version = 0
        """Changes with the times."""
        self._refresh()

    def correct(self, seen: Mapping[tuple[int, int], float]) -> None:
        """Takes over the milliseconds of steps by rows and requests, which are powers of 2."""
        for (rows, requests), ms in seen.items():
            ((node, _), *_) = _around(rows, requests)
            self._measured[node] = math.log(ms / self._sum(rows, requests))
        self._filled = {}
        self._refresh()

    def at(self, rows: int, requests: int = 1) -> float:
        """Returns the milliseconds of a step of so many rows, which belong to so many requests."""
        found = self._known.get((rows, requests))
        if found is None:
            found = self._known[rows, requests] = self._by_now(rows, requests)
        return found

    def have_context(self, tokens: float) -> None:
        """Makes the times those of requests with a mean context of so many tokens. Small changes count for nothing."""
        if abs(tokens - self._context) > _CONTEXT_STEP + _CONTEXT_SHARE * self._context:
            self._context = tokens
            self._refresh()

    def ran(self, rows: int, ms: float, requests: int = 1) -> None:
        """Takes in a step that ran."""
        if rows < 1 or ms <= 0:
            return
        error = math.log(ms / self._by_now(rows, requests))
        if not self._has_unit:
            self._has_unit = True
            self._scale += error
            self._refresh()
            return
        error = max(-_FARTHEST, min(error, _FARTHEST))
        self._scale += error * (_SCALE_RATE if abs(error) < _FAR else _SCALE_RATE_FAR)
        for node, weight in _around(rows, requests):
            self._changes[node] = self._changes.get(node, 0.0) + _RATE * weight * error
        self._num_steps += 1
        if self._num_steps % _REFRESH == 0:
            self._changes = {node: _KEPT * change for node, change in self._changes.items()}
            self._refresh()

    def _by_now(self, rows: int, requests: int) -> float:
        """Returns what `at` will return after the next refresh."""
        log = self._scale + sum(weight * self._correction(node) for node, weight in _around(rows, requests))
        return self._sum(rows, requests) * math.exp(log)

    def _correction(self, node: Node) -> float:
        measured = self._filled.get(node)
        if measured is None:
            measured = self._filled[node] = _interpolated(self._measured, node)
        return measured + self._changes.get(node, 0.0)

    def _refresh(self) -> None:
        pairs = zip(self._without_context, self._slopes, strict=True)
        self._times = [ms + slope * self._context for ms, slope in pairs]
        self._known: dict[tuple[int, int], float] = {}
        self.version += 1

    def _sum(self, rows: int, requests: int) -> float:
        """Returns the milliseconds without scale and corrections."""
        each = self._each + self._each_slope * self._context
        return self._between(rows) + each * (requests - 1)

    def _between(self, rows: int) -> float:
        """Returns the time of `rows` rows from the times of the sizes."""
        sizes, times = self._sizes, self._times
        above = bisect.bisect_left(sizes, rows)
        if above < len(sizes) and (self._padded or sizes[above] == rows or above == 0):
            return times[above]
        above = min(above, len(sizes) - 1)  # beyond the last size the last slope goes on
        low, high = sizes[above - 1], sizes[above]
        return times[above - 1] + (times[above] - times[above - 1]) * (rows - low) / (high - low)


def _interpolated(known: Mapping[Node, float], node: Node) -> float:
    """Returns the correction of a node: from the nodes with the nearest number of requests, between two of these."""
    if not known:
        return 0.0
    x = min((at[0] for at in known), key=lambda one: abs(one - node[0]))
    line = sorted((at[1], value) for at, value in known.items() if at[0] == x)
    above = bisect.bisect_left(line, (node[1], -math.inf))
    if above in (0, len(line)):
        return line[min(above, len(line) - 1)][1]
    (low, first), (high, second) = line[above - 1], line[above]
    return first + (second - first) * (node[1] - low) / (high - low)


def _around(rows: int, requests: int) -> Iterator[tuple[Node, float]]:
    """Yields the nodes of the grid around a step, with their weights, whose sum is 1. The first has the largest."""
    x, y = math.log2(max(requests, 1)), math.log2(max(rows / max(requests, 1), 1.0))
    i, j = int(x), int(y)
    right, up = x - i, y - j
    corners = (
        ((i, j), (1 - right) * (1 - up)),
        ((i + 1, j), right * (1 - up)),
        ((i, j + 1), (1 - right) * up),
        ((i + 1, j + 1), right * up),
    )
    yield from sorted((corner for corner in corners if corner[1]), key=lambda corner: -corner[1])
