"""What wider cycles bring to groups of requests that are alike."""

from __future__ import annotations

import pytest
from trimode.workers.engine.groups import FAIRNESS, NUM_LEVELS, Groups, Plan, level_of

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


def planned(groups: Groups, counts: dict[int, int], constant: float) -> Plan:
    num = sum(counts.values())
    return groups.best(counts, float(num), num, Linear(constant))


@pytest.mark.parametrize(("constant", "width"), [(1e9, 32), (0.0, 1)])
def test_rows_that_cost_nothing_are_taken_and_dear_ones_are_not(constant: float, width: int) -> None:
    groups, group = Groups(), MENU * NUM_LEVELS + MIDDLE
    groups.refresh([0.02] * 5, 0.0)
    plan = planned(groups, {group: 5}, constant)
    assert (groups.width_of(group, plan), plan.part) == (width, None)


def test_widths_are_those_of_the_chances_that_came_last() -> None:
    groups, group = Groups(), MENU * NUM_LEVELS + MIDDLE
    found = []
    for chance in (0.02, 0.3, 0.9):
        groups.refresh([chance] * 5, 0.0)
        found.append(groups.width_of(group, planned(groups, {group: 5}, 100.0)))
    assert found == sorted(found, reverse=True) and len(set(found)) == 3
    groups.refresh([0.02] * 5, 0.4)
    assert groups.width_of(group, planned(groups, {group: 5}, 100.0)) < found[0]


def test_what_cycles_gave_corrects_what_they_are_expected_to_give() -> None:
    groups, group = Groups(), MENU * NUM_LEVELS + MIDDLE
    groups.refresh([0.02] * 5, 0.0)
    before = groups.width_of(group, planned(groups, {group: 5}, 1e9))
    groups.refresh([0.02] * 5, 0.0, [1.0, 1.0, 1.0, 1.0, 0.5])
    assert before == 32 and groups.width_of(group, planned(groups, {group: 5}, 1e9)) == 16


def test_a_group_that_came_later_has_the_width_that_the_plan_would_give_it() -> None:
    groups = Groups()
    easy, hard = MENU * NUM_LEVELS + 5, MENU * NUM_LEVELS + 35
    plan = planned(groups, {hard: 2}, 10.0)
    assert groups.width_of(hard, plan) == 1
    assert groups.width_of(easy, planned(groups, {easy: 2}, 10.0)) > 1


class Stairs(dict[int, float]):
    """Steps of up to 64 rows cost the same, and more rows are very dear."""

    def __missing__(self, rows: int) -> float:
        return (1.0 if rows <= 64 else 100.0) ** FAIRNESS


def test_a_part_of_a_group_takes_what_has_room() -> None:
    groups, group = Groups(), MENU * NUM_LEVELS + MIDDLE
    groups.refresh([0.002] * 5, 0.0)
    plan = groups.best({group: 3}, 3.0, 3, Stairs())
    assert plan.part is not None
    assert (plan.part.group, plan.part.width, plan.num_part, groups.width_of(group, plan)) == (group, 32, 1, 16)
