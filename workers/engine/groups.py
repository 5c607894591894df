"""What wider cycles bring to the requests that are alike: those with the same widths and the same level of difficulty.

Only groups that occurred are computed, because a request stays near its level for long.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping, Sequence

from trimode.workers.engine.acceptance import PRIOR_FAILURES, speeds_at
from trimode.workers.engine.widenings import Widening, widenings_of

FAIRNESS = 0.7
"""Power of a request's speed in the sum that is made large: below 1, so that slow requests count for more."""
NUM_LEVELS = 41
_LEVEL_STEP = 0.15
"""Difficulties are rounded to levels, which stand so far apart in their logarithm."""


def level_of(difficulty: float) -> int:
    """Returns the level to which a difficulty is rounded."""
    return min(max(round(math.log(difficulty) / _LEVEL_STEP) + NUM_LEVELS // 2, 0), NUM_LEVELS - 1)


def bins_of(menu: int) -> int:
    """Returns how many bins of places the widest width of a menu spans. Its widths are 1, 4, 8, ..., 2 ** bins."""
    return menu + 2


class Groups:
    """Speeds of the groups at every width, and the widenings of all of them in order."""

    def __init__(self) -> None:
        self._chances: Sequence[float] = PRIOR_FAILURES
        self._end_chance = 0.0
        self._speeds: dict[int, list[float]] = {}
        """By group, and by number of the width: to the power of FAIRNESS."""
        self._widenings: list[Widening] = []
        """The best first."""

    def refresh(self, chances: Sequence[float], end_chance: float) -> None:
        """Forgets what was computed from other chances of failure and of the end of an answer."""
        self._chances, self._end_chance = chances, end_chance
        self._speeds, self._widenings = {}, []

    def speeds(self, group: int) -> list[float]:
        """Returns the speeds of a group, which is `menu * NUM_LEVELS + level`, to the power of FAIRNESS."""
        found = self._speeds.get(group)
        if found is None:
            menu, level = divmod(group, NUM_LEVELS)
            difficulty = math.exp(_LEVEL_STEP * (level - NUM_LEVELS // 2))
            found = [speed**FAIRNESS for speed in speeds_at(difficulty, self._chances, bins_of(menu), self._end_chance)]
            self._speeds[group] = found
            for widening in widenings_of(group, found):
                bisect.insort(self._widenings, widening, key=lambda one: -one.gain)
        return found

    def best(
        self, counts: Mapping[int, int], speed: float, rows: int, cost: Mapping[int, float]
    ) -> tuple[dict[int, int], Widening | None, int]:
        """Returns the widths by group that give the largest sum of speeds, if one widening follows the other.

        Every prefix is tried, because the times of steps have kinks. The last widening may be taken by some requests
        of its group only: it comes apart, with their number.

        Args:
            counts: requests of each group that have a choice. All have been asked for with `speeds`.
            speed: of all requests if those have width 1.
            rows: the same of the step.
            cost: time of a step by its rows, to the power of FAIRNESS.
        """
        best, cut, taken = speed / cost[rows], -1, 0
        present = [widening for widening in self._widenings if widening.group in counts]
        for number, (_, group, more_speed, more_rows, _) in enumerate(present):
            for i in range(counts[group]):
                speed += more_speed
                rows += more_rows
                value = speed / cost[rows]
                if value > best:
                    best, cut, taken = value, number, i + 1
        if cut < 0:
            return {}, None, 0
        return {widening.group: widening.width for widening in present[:cut]}, present[cut], taken
