"""Numbers and intervals as text, the same in the report and in comparisons."""

from __future__ import annotations

from trimode.pipeline.analysis.statistics import Interval

MISSING = "\N{EN DASH}"
"""Stands where a figure does not apply."""
RANGE = "\N{EN DASH}"
"""Between the bounds of an interval."""


def number(value: float | None, digits: int) -> str:
    """A figure with fixed digits, or a dash where it does not apply."""
    return MISSING if value is None else f"{value:.{digits}f}"


def interval(value: Interval | None, digits: int) -> str:
    """`low` to `high`, or a dash."""
    return MISSING if value is None else f"{value.low:.{digits}f}{RANGE}{value.high:.{digits}f}"


def signed_interval(interval: Interval) -> str:
    """Bounds with their signs."""
    return f"{interval.low:+.2f} to {interval.high:+.2f}"
