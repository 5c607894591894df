"""Numbers and intervals as text, the same in the report and in comparisons."""

from __future__ import annotations

from trimode.pipeline.analysis.statistics import Interval

MISSING = "\N{EN DASH}"
"""Stands where a number does not apply."""
RANGE = "\N{EN DASH}"
"""Between the bounds of an interval."""


def number(value: float | None, digits: int) -> str:
    """Returns a number with fixed digits, or a dash if there is none."""
    return MISSING if value is None else f"{value:.{digits}f}"


def interval(value: Interval | None, digits: int) -> str:
    """Returns the bounds of an interval with fixed digits, or a dash if there is none."""
    return MISSING if value is None else f"{value.low:.{digits}f}{RANGE}{value.high:.{digits}f}"


def signed_interval(interval: Interval) -> str:
    """Returns the bounds with their signs."""
    return f"{interval.low:+.2f} to {interval.high:+.2f}"
