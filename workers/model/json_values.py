"""Checks of numbers that come from a JSON file: each returns the problems with one key, as text for an error."""

from __future__ import annotations

import math
from collections.abc import Mapping

MAX_INTEGER = 2**31 - 1
"""Most that any size in a checkpoint may be. Python reads integers of any length, which no tensor can have."""
MAX_SHOWN = 80
"""Most characters of a bad value in a message."""


def show(value: object) -> str:
    """Returns the value as Python writes it, cut if it is long."""
    if isinstance(value, int) and abs(value) > 10**MAX_SHOWN:
        return f"an integer of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "..."


def is_integer(value: object, low: int, high: int = MAX_INTEGER) -> bool:
    """True if the value is an integer from `low` to `high`; booleans and 3.0 are none."""
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def not_integer(raw: Mapping[str, object], key: str, low: int, high: int = MAX_INTEGER) -> list[str]:
    """Returns the problem if the key holds no integer from `low` to `high`."""
    if is_integer(raw.get(key), low, high):
        return []
    return [f"{key}: got {show(raw.get(key))}; valid: an integer from {low} to {high}"]


def not_number(raw: Mapping[str, object], key: str, *, above: float | None = None, low: float = 0.0) -> list[str]:
    """Returns the problem if the key holds no finite number above `above`, or from `low` if that is None."""
    value = raw.get(key)
    number = _finite(value)
    if number is not None and (number >= low if above is None else number > above):
        return []
    valid = f"a finite number from {low}" if above is None else f"a finite number above {above}"
    return [f"{key}: got {show(value)}; valid: {valid}"]


def _finite(value: object) -> float | None:
    """Returns a finite number as a float; None for all else, and for integers that no float can hold."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
