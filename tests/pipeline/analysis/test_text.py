"""Numbers and intervals as text."""

from __future__ import annotations

from trimode.pipeline.analysis.statistics import Interval
from trimode.pipeline.analysis.text import interval, number, signed_interval


def test_a_missing_number_is_a_dash_and_zero_is_not() -> None:
    assert number(None, 2) == interval(None, 2) == "\N{EN DASH}"
    assert number(0.0, 1) == "0.0"


def test_digits_are_fixed() -> None:
    assert number(7.125, 1) == "7.1"
    assert interval(Interval(1.0, 2.345), 2) == "1.00\N{EN DASH}2.35"


def test_bounds_of_a_difference_carry_their_signs() -> None:
    assert signed_interval(Interval(-1.5, 0.25)) == "-1.50 to +0.25"
    assert signed_interval(Interval(0.5, 1.0)) == "+0.50 to +1.00"
