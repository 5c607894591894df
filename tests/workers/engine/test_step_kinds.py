"""Kinds of steps on a device that works beside the host, and the widths that they make better."""

from __future__ import annotations

import math

import pytest
from trimode.tests.workers.engine.test_widths import FLAT, Load, drafts
from trimode.workers.engine.step_kinds import Load as Decoding
from trimode.workers.engine.step_kinds import StepKinds
from trimode.workers.engine.step_times import StepTimes
from trimode.workers.engine.widths import Widths


def widths_of(share: float, others: float, *, whole_from: int | None, longer: float = 1.5, steps: int = 600) -> Load:
    """Two kinds of requests, eight in all, after some steps of a device on which mixed ones take longer."""
    load = Load(Widths(StepTimes(FLAT)), [drafts(share, n) for n in range(4)] + [drafts(others, n) for n in range(4)])
    load.widths.kinds.whole_from = whole_from
    for _ in range(40):
        load.widths.ran(20, 8, longer * load.widths.times.at(20, 8), mixed=True)
    for _ in range(steps):
        load.step()
    return load


def test_how_much_longer_mixed_steps_take_is_learned_and_bounded() -> None:
    kinds = StepKinds()
    assert kinds.longer == 1.0
    kinds.whole_from = 8
    for ratio, longer in ((1.3, 1.3), (0.5, 1.0), (50.0, math.exp(0.7))):
        for _ in range(100):
            kinds.ran(ratio)
        assert kinds.longer == pytest.approx(longer, rel=1e-3)
        assert kinds.handicap == pytest.approx(1.1 * longer, rel=1e-3)


def test_mixed_steps_leave_the_times_of_the_others_alone() -> None:
    widths = Widths(StepTimes(FLAT))
    widths.kinds.whole_from = 8
    before = widths.times.at(20, 8)
    for _ in range(100):
        widths.ran(20, 8, 3 * before, mixed=True)
    assert widths.times.at(20, 8) == before
    widths.kinds.whole_from = None
    for _ in range(100):
        widths.ran(20, 8, 3 * before, mixed=True)
    assert widths.times.at(20, 8) > 2 * before


def test_a_step_is_whole_if_all_requests_that_run_have_the_width() -> None:
    kinds, times = StepKinds(), StepTimes(FLAT)
    kinds.whole_from, kinds.may_be_whole = 8, True
    for _ in range(100):
        kinds.ran(1.5)
    load = Decoding(4, 0, 0)
    assert kinds.ms(times, load, 8, 4) == times.at(32, 4)
    assert kinds.ms(times, load, 1, 4) == kinds.ms(times, load, 1, 1) == times.at(4, 4)
    assert kinds.ms(times, load, 8, 3) == pytest.approx(kinds.longer * times.at(25, 4))
    assert kinds.ms(times, load, 4, 4) == pytest.approx(kinds.longer * times.at(16, 4))
    assert kinds.ms(times, Decoding(4, 1, 8), 8, 4) == pytest.approx(kinds.longer * times.at(40, 5))
    kinds.may_be_whole = False
    assert kinds.ms(times, load, 8, 4) == pytest.approx(kinds.longer * times.at(32, 4))


def test_where_mixed_steps_take_longer_all_draft_or_none() -> None:
    """Half of the requests would run steps of ar beside the drafts of the others."""
    free = widths_of(0.95, 0.3, whole_from=None).shares(30)
    assert free[1] > 50 and sum(count for width, count in free.items() if width >= 8) > 50
    together = widths_of(0.95, 0.3, whole_from=8).shares(30)
    assert sum(count for width, count in together.items() if width < 8) < 10
    none = widths_of(0.35, 0.3, whole_from=8).shares(30)
    assert none[1] > 200


def test_widths_stay_free_where_requests_keep_steps_from_being_whole() -> None:
    load = widths_of(0.95, 0.3, whole_from=8, longer=1.02, steps=0)
    for _ in range(600):
        load.step(may_be_whole=False)
    assert load.shares(30)[1] > 50


def test_at_its_end_an_answer_drafts_as_wide_as_the_others_if_it_may() -> None:
    load = widths_of(0.95, 0.9, whole_from=8)
    assert load.widths.least == 8
    first, *_ = load.fates
    first.running = 0
    assert (first.choose(3), first.choose(1)) == (8, 1)
    assert load.widths.new_chooser(5).choose(5) <= 5
    load.widths.kinds.whole_from = None
    load.widths.new_chooser(64)  # a new plan
    load.step()
    first.running = 0
    assert first.choose(3) == 1
