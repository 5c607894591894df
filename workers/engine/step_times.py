"""What a step costs by its rows and requests: measured when the engine starts, and kept true by the steps that run.

The time of a step is `scale * time(rows) + each * (requests - 1)`. 64 rows of 64 requests cost more than 64 rows of
two, because the host packs and samples for every request. Only ratios of these times matter to those who choose widths.

Steps correct three things: the scale (a busy machine, longer contexts), the cost of a request, and slowly what is
particular to one number of rows. Steps of a single load cannot tell the first two apart. Then both stay near what was
believed, the scale nearer than the cost of a request: steps of few requests have shown it.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Mapping
from typing import cast

UNMEASURED = {1: 1.0, 64: 1.5, 1024: 10.0}
"""Times of an engine that has measured none, in any unit."""
_OWN_KEPT = 0.95
"""What is left of the steps of a size after another one of it."""
_OWN_FADE = 0.9
"""What is left of them after `_REFRESH` steps of any size."""
_OWN_PRIOR = 2.0
"""Steps of its size for which it counts that a size has nothing particular."""
_KEPT = 0.98
"""What is left of the sums after a step."""
_PRIOR_STEPS, _PRIOR_REQUESTS = 20, 16
"""The believed scale counts as much as so many steps, the cost of a request as such steps of so many requests."""
_PRIOR_RATE = 0.1
"""How far a refresh moves the belief to what was found."""
_JUMP = 1.5
"""Change of the scale, if it were the only thing that changed, at which what was seen before is forgotten."""
_LARGEST_CHANGE = 4.0
"""Of a time against its expectation. What is beyond is taken for a disturbance."""
_REFRESH = 16
"""Steps after which their times come into effect."""
_Steps = tuple[float, float, float, float]


class StepTimes:
    """Milliseconds of a step by its rows and requests. They never fall as rows are added."""

    def __init__(self, measured: Mapping[int, float] = UNMEASURED, *, each: float = 0.0, padded: bool = False) -> None:
        """Takes over measured times.

        Args:
            measured: milliseconds by rows of one request, of at least two sizes.
            each: milliseconds that a further request adds, without its rows.
            padded: True if a step of any other size runs as the next larger one of these, as graphs do.
        """
        self._sizes = sorted(measured)
        self._in_ms = measured is not UNMEASURED
        self._measured = [measured[size] for size in self._sizes]
        self._padded = padded
        self._scale, self._each = 1.0, each
        self._belief, self._usual = each, 1.0
        """Of the cost of a request at scale 1, and of the scale."""
        typical = self._between(self._measured, _PRIOR_REQUESTS) + _PRIOR_REQUESTS * each
        self._prior = _PRIOR_STEPS * (_PRIOR_REQUESTS / typical) ** 2
        self._sums = [0.0] * 5
        """Of the equations that scale and cost of a request solve."""
        self._steps = [(0.0, 0.0, 0.0, 0.0)] * len(self._sizes)
        """Of the steps near each size: number, milliseconds, further requests, measured milliseconds of the rows."""
        self._num_steps = 0
        self.version = 0
        """Changes with the times."""
        self._refresh()

    def at(self, rows: int, requests: int = 1) -> float:
        """Returns the milliseconds of a step of so many rows, which belong to so many requests."""
        found = self._known.get(rows)
        if found is None:
            found = self._known[rows] = self._between(self._times, rows)
        return found + self._each * (requests - 1)

    def ran(self, rows: int, ms: float, requests: int = 1) -> None:
        """Takes in a step that ran."""
        if rows < 1 or ms <= 0:
            return
        time, more = self._between(self._measured, rows), requests - 1
        first = not self._num_steps  # it may be much longer than those that follow
        if first and not self._in_ms:
            self._usual = ms / time
        expected = self._scale * time + self._each * more if self._in_ms or not first else ms
        ms = max(expected / _LARGEST_CHANGE, min(ms, expected * _LARGEST_CHANGE))
        x, y, z = time / expected, more / expected, ms / expected
        new = (x * x, x * y, y * y, x * z, y * z)
        self._sums = [_KEPT * old + one for old, one in zip(self._sums, new, strict=True)]
        near = min(range(len(self._sizes)), key=lambda i: abs(self._sizes[i] - rows))
        step = (1.0, ms, float(more), time)
        self._steps[near] = cast(
            "_Steps", tuple(_OWN_KEPT * old + one for old, one in zip(self._steps[near], step, strict=True))
        )
        self._num_steps += 1
        if first or self._num_steps % _REFRESH == 0:
            self._solve()
            self._refresh()

    def _solve(self) -> None:
        """Finds scale and cost of a request by least squares of relative errors."""
        xx, xy, yy, xz, yz = self._sums
        belief, usual = self._belief, self._usual
        alone = (xz + belief * yz) / (xx + 2 * belief * xy + belief * belief * yy)
        if (
            not 1 / _JUMP < alone / usual < _JUMP
        ):  # another unit, or a machine that changed: the sums have other weights
            self._usual, self._scale, self._each = alone, alone, belief * alone
            self._sums = [0.0] * 5
            return
        prior, steps = self._prior / usual**2, _PRIOR_STEPS / usual**2  # errors are relative here
        xx, xy, yy = xx + prior * belief * belief + steps, xy - prior * belief, yy + prior
        xz += steps * usual
        rest = xx * yy - xy * xy
        scale, each = (xz * yy - xy * yz) / rest, (xx * yz - xy * xz) / rest
        if each < 0 or scale <= 0:
            each, scale = 0.0, max(xz / xx, 1e-9)
        self._scale, self._each = scale, each
        self._belief += _PRIOR_RATE * (each / scale - belief)
        self._usual += _PRIOR_RATE * (scale - usual)
        self._steps = [cast("_Steps", tuple(_OWN_FADE * one for one in steps)) for steps in self._steps]

    def _own(self, steps: _Steps) -> float:
        """Returns what the time of a size is multiplied by beside the scale."""
        number, ms, more, time = steps
        if not number:
            return 1.0
        share = max((ms - self._each * more) / (self._scale * time), 0.1)
        return math.exp(math.log(share) * number / (number + _OWN_PRIOR))

    def _refresh(self) -> None:
        scaled = (self._scale * ms * self._own(steps) for ms, steps in zip(self._measured, self._steps, strict=True))
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
