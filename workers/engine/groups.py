"""What wider cycles bring to the requests that are alike: those with the same widths and the same level of difficulty.

Only groups that occurred are computed, because a request stays near its level for long.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from trimode.workers.engine.acceptance import PRIOR_FAILURES, speeds_at
from trimode.workers.engine.hindsight import widths_up_to
from trimode.workers.engine.step_times import StepTimes
from trimode.workers.engine.widenings import Widening, widenings_of

FAIRNESS = 0.7
"""Power of a request's speed in the sum that is made large: below 1, so that slow requests count for more."""
NUM_LEVELS = 41
_LEVEL_STEP = 0.15
"""Difficulties are rounded to levels, which stand so far apart in their logarithm."""
_PARTS = 8
"""Sizes of the part of a group that are tried."""


def level_of(difficulty: float) -> int:
    """Returns the level to which a difficulty is rounded."""
    return min(max(round(math.log(difficulty) / _LEVEL_STEP) + NUM_LEVELS // 2, 0), NUM_LEVELS - 1)


def bins_of(menu: int) -> int:
    """Returns how many bins of places the widest width of a menu spans. Its widths are 1, 4, 8, ..., 2 ** bins."""
    return menu + 2


class Plan(NamedTuple):
    """The widths of all groups: every widening of at least one gain is taken, and one more by some requests only."""

    gain: float = math.inf
    """Of the last widening that a whole group takes. At first no width is planned."""
    part: Widening | None = None
    """The widening that a part of its group takes besides; None = there is none."""
    num_part: int = 0
    """How many requests take it."""
    least: int = 1
    """Width that all requests have at least."""
    value: float = 0.0
    """Sum of the speeds by the time of a step, both to the power of FAIRNESS."""


class Costs(dict[int, float]):
    """Time of a step of so many requests to the power of FAIRNESS, by rows. Computed once, because plans ask often."""

    def __init__(self, times: StepTimes, num_requests: int) -> None:
        super().__init__()
        self._times, self._num_requests = times, num_requests

    def __missing__(self, rows: int) -> float:
        found: float = self._times.at(rows, self._num_requests) ** FAIRNESS
        self[rows] = found
        return found


class Groups:
    """Speeds of the groups at every width, and the widenings of all of them in order."""

    def __init__(self) -> None:
        self._chances: Sequence[float] = PRIOR_FAILURES
        self._end_chance = 0.0
        self._factors: Sequence[float] = ()
        self._speeds: dict[int, list[float]] = {}
        """By group, to the power of FAIRNESS."""
        self._widenings: dict[tuple[int, int], list[Widening]] = {}
        """By group and the width that they begin at, the best first."""

    def refresh(self, chances: Sequence[float], end_chance: float, factors: Sequence[float] = ()) -> None:
        """Forgets what was computed from other numbers.

        Args:
            chances: of failure by bin.
            end_chance: that an answer ends at a place.
            factors: see `Yields`.
        """
        self._chances, self._end_chance, self._factors = chances, end_chance, factors
        self._speeds, self._widenings = {}, {}

    def speeds(self, group: int) -> list[float]:
        """Returns the speeds of a group, which is `menu * NUM_LEVELS + level`, to the power of FAIRNESS, by width."""
        found = self._speeds.get(group)
        if found is None:
            menu, level = divmod(group, NUM_LEVELS)
            difficulty = math.exp(_LEVEL_STEP * (level - NUM_LEVELS // 2))
            speeds = speeds_at(difficulty, self._chances, bins_of(menu), self._end_chance)
            for number, factor in enumerate(self._factors[: len(speeds)]):
                speeds[number] *= factor
            found = self._speeds[group] = [speed**FAIRNESS for speed in speeds]
        return found

    def widenings(self, group: int, least: int = 1) -> list[Widening]:
        """Returns the widenings of a group from the width `least` on, the best first."""
        found = self._widenings.get((group, least))
        if found is None:
            found = self._widenings[group, least] = widenings_of(group, self.speeds(group), least)
        return found

    def best_from(self, least: int, counts: Mapping[int, int], cost: Mapping[int, float]) -> Plan | None:
        """Returns the best plan in which all requests have at least a width, which may be above 1.

        Args:
            least: one of the widths.
            counts: requests of each group; there are no others.
            cost: see `best`.

        Returns:
            None if a group's widths end below.
        """
        if any(2 ** bins_of(group // NUM_LEVELS) < least for group in counts):
            return None
        number = widths_up_to(least.bit_length()).index(least)
        speed = sum(count * self.speeds(group)[number] for group, count in counts.items())
        return self.best(counts, speed, least * sum(counts.values()), cost, least)

    def best(
        self, counts: Mapping[int, int], speed: float, rows: int, cost: Mapping[int, float], least: int = 1
    ) -> Plan:
        """Returns the plan that gives the largest sum of speeds, if one widening follows the other.

        Every prefix of whole groups is tried, because the times of steps have kinks, and some parts of the groups
        beside the best one.

        Args:
            counts: requests of each group.
            speed: of all requests if those have the width `least`, each to the power of FAIRNESS.
            rows: of the step then.
            cost: time of a step by its rows, to the power of FAIRNESS.
            least: width that all requests have at least.
        """
        taken = list(itertools.chain.from_iterable(self.widenings(group, least) for group in counts))
        if len(counts) > 1:
            taken.sort(key=lambda one: -one.gain)
        before, best, at = [(speed, rows)], speed / cost[rows], 0
        for widening in taken:
            count = counts[widening.group]
            speed += count * widening.speed
            rows += count * widening.rows
            before.append((speed, rows))
            if speed / cost[rows] > best:
                best, at = speed / cost[rows], len(before) - 1
        plan = Plan(taken[at - 1].gain if at else math.inf, least=least)
        for number in range(max(at - 1, 0), min(at + 1, len(taken))):
            widening, (speed, rows) = taken[number], before[number]
            count = counts[widening.group]
            stride = -(-count // _PARTS)
            for part in range(stride, count, stride):
                value = (speed + part * widening.speed) / cost[rows + part * widening.rows]
                if value > best:
                    best, plan = value, Plan(taken[number - 1].gain if number else math.inf, widening, part, least)
        return plan._replace(value=best)

    def width_of(self, group: int, plan: Plan) -> int:
        """Returns the width of a group, which may be one that had no request when the plan was made."""
        width = plan.least
        for widening in self.widenings(group, plan.least):
            if widening.gain < plan.gain:
                break
            width = widening.width
        return width
