"""What a cycle of a width gives, by the stretches of a text between drafts that fail."""

from __future__ import annotations

import random

import pytest
from trimode.workers.engine.acceptance import Acceptance, RequestDrafts, speeds_at
from trimode.workers.engine.yields import Yields

BINS = 5


def learn(stretches: list[list[int]], width: int) -> tuple[Yields, Acceptance]:
    """Requests whose text has these stretches, in cycles of one width."""
    acceptance, yields = Acceptance(), Yields()
    for request in stretches:
        drafts = RequestDrafts()
        for number, length in enumerate(request):
            left = length
            while left:
                emitted = min(left, width)
                left -= emitted
                ended = not left and number == len(request) - 1
                acceptance.learn(drafts, width, emitted - 1, emitted, ended=ended)
                yields.add(drafts, acceptance, BINS, ended=ended)
        acceptance.refresh()
    return yields, acceptance


@pytest.mark.parametrize("width", [4, 16, 32])
def test_answers_of_one_length_take_whole_cycles_whatever_the_width_was(width: int) -> None:
    found, acceptance = learn([[21, 30]] * 600, width)
    speeds = speeds_at(1.0, acceptance.chances, BINS, acceptance.end_chance)
    for number, tokens in ((3, 51 / 4), (4, 51 / 2)):
        expected = 2 * speeds[number]
        # a factor goes half of the way
        assert found.factors[number] == pytest.approx((tokens / expected) ** 0.5, rel=0.08)


def test_drafts_that_fail_anywhere_give_what_is_expected() -> None:
    chance = random.Random(0)
    lengths = [[min(1 + int(chance.expovariate(0.1)), 200) for _ in range(20)] for _ in range(60)]
    factors = learn(lengths, 16)[0].factors
    assert factors[1:] == pytest.approx([1.0] * 4, abs=0.15)


def test_little_changes_little() -> None:
    assert learn([[20, 31]], 32)[0].factors == pytest.approx([1.0] * BINS, abs=0.15)
    assert Yields().factors == []


def test_factors_have_limits() -> None:
    factors = learn([[33] * 15] * 60, 8)[0].factors
    assert all(0.86 <= factor <= 1.16 for factor in factors)


@pytest.mark.parametrize(("number", "ended", "counted"), [(15, False, False), (16, False, True), (1, True, True)])
def test_stretches_count_once_when_a_request_ends_or_has_many(number: int, ended: bool, counted: bool) -> None:
    drafts, yields = RequestDrafts(stretches=[21] * number), Yields()
    yields.add(drafts, Acceptance(), BINS, ended=ended)
    assert (drafts.stretches == []) is counted
    assert (yields.factors != []) is counted
    before = list(yields.factors)
    yields.add(drafts, Acceptance(), BINS, ended=False)
    assert yields.factors == before


def test_requests_with_narrow_widths_leave_what_is_known_of_wide_ones() -> None:
    yields = Yields()
    yields.add(RequestDrafts(stretches=[33] * 40), Acceptance(), BINS, ended=True)
    wide = yields.factors
    assert wide[-1] > 1.05
    yields.add(RequestDrafts(stretches=[4] * 40), Acceptance(), 3, ended=True)
    assert yields.factors[3:] == wide[3:]
    assert yields.factors[1] != wide[1]
