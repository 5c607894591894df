"""The choice of widths, with costs of steps and fates of drafts that are written down here."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable, Mapping

import pytest
from trimode.workers.engine.probes import FIRST_PROBE, LAST_PROBE
from trimode.workers.engine.step_times import StepTimes
from trimode.workers.engine.widths import STREAK, Chooser, Widths

LINEAR = {1: 1.0, 2048: 2048.0}
"""Every row costs the same: a draft can never pay."""
FLAT = {1: 10.0, 64: 11.0, 512: 40.0, 2048: 160.0}
"""Rows are nearly free up to 64, as they are where reading the weights bounds a step."""
Fate = Callable[[int], int]
"""(width) -> accepted drafts."""


def drafts(share: float, seed: object = 0) -> Fate:
    """Each draft is right with this chance, if all before it were."""
    chance = random.Random(str(seed))
    return lambda width: next((at for at in range(width - 1) if chance.random() >= share), width - 1)


class Load:
    """Requests that decode for ever, each with its own fate."""

    def __init__(self, widths: Widths, fates: list[Fate], most: int = 32) -> None:
        self.widths = widths
        self.fates = {widths.new_chooser(most): fate for fate in fates}
        self.drafted: set[Chooser] = set()
        self.cycles: dict[Chooser, list[tuple[int, int]]] = {chooser: [] for chooser in self.fates}
        """Width and emitted tokens of each."""
        self.ms = 0.0

    def step(self, other_requests: int = 0, other_rows: int = 0, *, may_be_whole: bool = True) -> None:
        self.widths.plan(list(self.fates), other_requests, other_rows, may_be_whole=may_be_whole)
        rows = other_rows
        for chooser, fate in self.fates.items():
            if chooser in self.drafted:
                self.drafted.remove(chooser)
                width, accepted = chooser.running, fate(chooser.running)
                self._end(chooser, width, accepted)
            elif (width := chooser.choose(1000)) > 1:
                self.drafted.add(chooser)
            else:
                self._end(chooser, 1, 0)
            rows += width
        self.ms += self.widths.times.at(rows, len(self.fates) + other_requests)
        self.widths.passed(rows, len(self.fates) + other_requests, 1)

    def _end(self, chooser: Chooser, width: int, accepted: int) -> None:
        self.cycles[chooser].append((width, accepted + 1))
        chooser.took(width, accepted, accepted + 1)

    def shares(self, last: int) -> Counter[int]:
        """Number of cycles by width among the last ones of all requests."""
        return Counter(width for cycles in self.cycles.values() for width, _ in cycles[-last:])

    @property
    def speed(self) -> float:
        return sum(emitted for cycles in self.cycles.values() for _, emitted in cycles) / self.ms


def after(steps: int, table: dict[int, float], fates: list[Fate], most: int = 32) -> Load:
    load = Load(Widths(StepTimes(table)), fates, most)
    for _ in range(steps):
        load.step()
    return load


def test_the_first_cycle_of_a_lone_request_drafts() -> None:
    assert after(2, FLAT, [drafts(0.9)]).shares(1).keys() == {32}


def test_a_lone_request_whose_drafts_are_right_has_wide_cycles() -> None:
    assert after(200, FLAT, [drafts(0.99)]).shares(40)[32] >= 38


def test_a_full_batch_where_every_row_costs_the_same_runs_ar() -> None:
    load = after(300, LINEAR, [drafts(0.9, seed) for seed in range(32)])
    assert load.shares(10_000).keys() == {1}


@pytest.mark.parametrize("num", [1, 4, 32])
def test_requests_whose_drafts_fail_are_back_at_ar_within_eight_cycles(num: int) -> None:
    load = after(60, FLAT, [drafts(0.0)] * num)
    for cycles in load.cycles.values():
        wide = [number for number, (width, _) in enumerate(cycles[: FIRST_PROBE + STREAK]) if width > 1]
        assert len(wide) <= 8
        assert all(number < 8 for number in wide[:-1])


def test_requests_that_fail_probe_ever_more_seldom() -> None:
    load = after(3000, FLAT, [drafts(0.0)])
    (cycles,) = load.cycles.values()
    wide = [number for number, (width, _) in enumerate(cycles) if width > 1]
    gaps = [later - earlier for earlier, later in itertools.pairwise(wide)]
    assert max(gaps) > LAST_PROBE * 0.9
    assert len(wide) < 40
    assert {width for width, _ in cycles[50:]} == {1, 4}


def test_a_request_that_became_easy_is_found_by_a_probe() -> None:
    load = after(600, FLAT, [drafts(0.0)])
    (chooser,) = load.fates
    load.fates[chooser] = drafts(0.98)
    for _ in range(400):
        load.step()
    assert load.shares(10)[32] >= 5


def test_no_probe_where_nothing_could_be_gained() -> None:
    load = after(600, LINEAR, [drafts(0.9, seed) for seed in range(4)])
    assert load.shares(10_000).keys() == {1}


def test_each_request_gets_its_own_width() -> None:
    easy, hard = [drafts(0.98, seed) for seed in range(4)], [drafts(0.0, seed) for seed in range(4)]
    load = after(400, FLAT, easy + hard)
    wide = {chooser: sum(width > 1 for width, _ in cycles[-20:]) for chooser, cycles in load.cycles.items()}
    assert min(list(wide.values())[:4]) > 10
    assert max(list(wide.values())[4:]) < 5


@pytest.mark.parametrize("num", [1, 2, 8, 32, 64])
@pytest.mark.parametrize("share", [0.0, 0.7, 0.9])
def test_never_far_below_ar_nor_below_the_best_fixed_width(num: int, share: float) -> None:
    """Fates are without memory here, so no choice of widths can beat the best fixed one by much."""
    steps = 600 if num > 8 else 4800
    auto = after(steps, FLAT, [drafts(share, seed) for seed in range(num)]).speed
    times = StepTimes(FLAT)
    fixed = [num / times.at(num)]
    for width in (4, 8, 16, 32):
        emitted = sum(share**place for place in range(width))
        fixed.append(num * emitted / 2 / times.at(num * width))
    assert auto > 0.87 * max(fixed)  # a lone request is also lucky or not: 0.97 on average at 0.7


def test_rows_of_other_modes_make_rows_dear() -> None:
    alone = after(100, FLAT, [drafts(0.8)])
    beside = Load(Widths(StepTimes({1: 10.0, 64: 10.5, 65: 10.6, 2048: 4000.0})), [drafts(0.8)])
    for _ in range(100):
        beside.step(other_requests=64, other_rows=64)
    assert max(alone.shares(20)) > max(beside.shares(20))


@pytest.mark.parametrize(("most", "widest"), [(1, 1), (3, 1), (4, 4), (8, 8), (20, 20), (32, 32), (64, 64)])
def test_no_cycle_is_wider_than_its_request_allows(most: int, widest: int) -> None:
    load = Load(Widths(StepTimes({1: 10.0, 2048: 10.1})), [drafts(0.999)], most)
    (chooser,) = load.fates
    for _ in range(60):
        load.widths.plan([chooser])
        width = chooser.choose(most)
        assert width <= most
        chooser.took(width, width - 1, width)
    assert width == widest


def test_requests_with_other_limits_share_a_plan() -> None:
    widths = Widths(StepTimes(FLAT))
    narrow, wide = widths.new_chooser(4), widths.new_chooser(32)
    widths.plan([narrow, wide])
    assert (narrow.choose(1000), wide.choose(1000)) == (4, 32)


def test_a_request_without_a_plan_runs_a_step_of_ar() -> None:
    assert Widths().new_chooser(32).choose(32) == 1


def test_the_end_of_a_request_limits_a_planned_width() -> None:
    widths = Widths(StepTimes(FLAT))
    chooser = widths.new_chooser(32)
    widths.plan([chooser])
    assert chooser.choose(3) == 1
    assert chooser.running == 0


class Counted(Widths):
    """Counts how often widths are really planned."""

    plans = 0

    def _plan(self, counts: Mapping[int, int]) -> None:
        self.plans += 1
        super()._plan(counts)


def test_a_batch_at_ar_is_planned_again_only_if_something_changed() -> None:
    widths = Counted(StepTimes(LINEAR))
    load = Load(widths, [drafts(0.9, seed) for seed in range(8)])
    load.step()
    for _ in range(FIRST_PROBE - 2):
        load.step()
    assert widths.plans == 1
    widths.plan(list(load.fates)[:7])
    widths.plan(list(load.fates)[:7], 1, 5)
    assert widths.plans == 3
    widths.plan([*list(load.fates)[:6], widths.new_chooser(4)], 1, 5)
    assert widths.plans == 4


def test_what_drafts_come_to_and_new_times_are_planned_for() -> None:
    widths = Counted(StepTimes(FLAT))
    load = Load(widths, [drafts(0.9)])
    for _ in range(200):
        load.step()
    assert 20 < widths.plans < 200
    widths = Counted(StepTimes(LINEAR))
    load = Load(widths, [drafts(0.9, seed) for seed in range(8)])
    load.step()
    widths.times = StepTimes(FLAT)
    widths.times.version = 77
    load.step()
    assert widths.plans == 2


def test_requests_that_still_draft_do_not_keep_the_others_at_drafting() -> None:
    """Beside many rows a few more seem cheap, so a batch that drafts would go on although ar is faster for it."""
    times = StepTimes({1: 0.3, 16: 1.0, 128: 4.4, 512: 17.2})
    requests = list(Load(Widths(times), [drafts(0.995, seed) for seed in range(16)], 8).fates)
    widths = requests[0].policy
    for _ in range(50):  # two at a time draft
        for pair in zip(requests[::2], requests[1::2], strict=True):
            widths.plan(pair)
            chosen = [chooser.choose(8) for chooser in pair]
            for chooser, width in zip(pair, chosen, strict=True):
                chooser.took(width, width - 1, width)
    assert chosen == [8, 8]
    for pair in zip(requests[::2], requests[1::2], strict=True):
        widths.plan(pair)
        assert [chooser.choose(8) for chooser in pair] == [8, 8]
    for half in (requests[:8], requests[8:]):
        for chooser in half:
            chooser.took(8, 7, 8)
        widths.plan(requests)
        assert {chooser.choose(8) for chooser in half} == {1}


@pytest.mark.parametrize("most", [1, 3, 4, 5, 8, 20, 33])
def test_hindsight_names_no_width_that_a_request_may_not_have(most: int) -> None:
    widths = Widths(StepTimes(FLAT))
    widest = {widths.new_chooser(64): 64, widths.new_chooser(most): most}
    for _ in range(10):
        widths.plan(list(widest))
        for chooser, limit in widest.items():
            width = chooser.choose(limit)
            chooser.took(width, width - 1, width)
        widths.passed(10, 2, 2)
    for chooser, limit in widest.items():
        assert limit / 4 < max(chooser.fixed_tokens) <= limit


def test_steps_that_are_slower_than_measured_do_not_end_probes() -> None:
    """Where one row per request ran and nothing else, a few more rows seem to cost less than nothing."""
    widths, machine = Widths(StepTimes(FLAT)), StepTimes(FLAT)
    load = Load(widths, [drafts(0.0, seed) for seed in range(4)])
    for step in range(2000):
        if step == 1500:
            load.fates = {chooser: drafts(0.98, seed) for seed, chooser in enumerate(load.fates)}
        load.step()
        rows = sum(chooser.running or 1 for chooser in load.fates)
        widths.ran(rows, 4, 1.4 * machine.at(rows, 4))
    assert max(load.shares(10)) > 4
