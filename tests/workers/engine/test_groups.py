"""What wider cycles bring to groups of requests that are alike."""

from __future__ import annotations

import math

import pytest
from trimode.workers.engine.acceptance import speeds_at
from trimode.workers.engine.groups import FAIRNESS, NUM_LEVELS, Groups, bins_of, level_of

MIDDLE = NUM_LEVELS // 2
MENU = 3
"""Widths up to 32."""


class Linear(dict[int, float]):
    """Every row costs the same, on top of a constant."""

    def __init__(self, constant: float) -> None:
        super().__init__()
        self.constant = constant

    def __missing__(self, rows: int) -> float:
        return (self.constant + rows) ** FAIRNESS


def test_levels_rise_with_difficulty_and_have_ends() -> None:
    levels = [level_of(difficulty) for difficulty in (1e-9, 0.5, 1.0, 2.0, 1e9)]
    assert levels == sorted(levels) and len(set(levels)) == 5
    assert (levels[0], levels[2], levels[-1]) == (0, MIDDLE, NUM_LEVELS - 1)


def test_speeds_are_those_of_the_level_and_of_the_chances_that_came_last() -> None:
    groups = Groups()
    before = groups.speeds(MENU * NUM_LEVELS + MIDDLE)
    groups.refresh([0.2] * 5, 0.05)
    expected = [speed**FAIRNESS for speed in speeds_at(math.exp(0.15), [0.2] * 5, bins_of(MENU), 0.05)]
    assert groups.speeds(MENU * NUM_LEVELS + MIDDLE + 1) == pytest.approx(expected)
    assert groups.speeds(MENU * NUM_LEVELS + MIDDLE)[-1] < before[-1]


@pytest.mark.parametrize(("constant", "widest"), [(1e9, 4), (0.0, 0)])
def test_rows_that_cost_nothing_are_taken_and_dear_ones_are_not(constant: float, widest: int) -> None:
    groups, group = Groups(), MENU * NUM_LEVELS + MIDDLE
    groups.refresh([0.02] * 5, 0.0)
    groups.speeds(group)
    widths, last, taken = groups.best({group: 5}, 5.0, 5, Linear(constant))
    found = 0 if last is None else last.width
    assert bool(found) == bool(widest)
    assert taken == (5 if widest else 0)
    assert widths.get(group, 0) <= found or last is None


def test_groups_that_are_not_there_get_no_width() -> None:
    groups = Groups()
    easy, hard = MENU * NUM_LEVELS + 5, MENU * NUM_LEVELS + 35
    groups.speeds(easy)
    groups.speeds(hard)
    widths, last, _ = groups.best({hard: 2}, 2.0, 2, Linear(40.0))
    assert easy not in widths and (last is None or last.group == hard)
