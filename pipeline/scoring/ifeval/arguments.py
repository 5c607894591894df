"""Arguments of one IFEval instruction, checked as they are read."""

from __future__ import annotations

from collections.abc import Callable

Arguments = dict[str, object]
"""One entry of a row's `kwargs`, without its null values."""
Check = Callable[[str, Arguments], bool]
"""True if a response follows one instruction."""

AT_LEAST = "at least"
LESS_THAN = "less than"


def text_argument(arguments: Arguments, name: str) -> str:
    """Returns the string `name`. Raises ValueError if it is missing or no string."""
    value = arguments.get(name)
    if not isinstance(value, str):
        raise ValueError(f"argument {name!r} of an instruction must be text; got {value!r}")
    return value


def count_argument(arguments: Arguments, name: str) -> int:
    """Returns the whole number `name` (>= 0; a whole float counts). Raises ValueError otherwise."""
    value = arguments.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0 or value != int(value):
        raise ValueError(f"argument {name!r} of an instruction must be a whole number >= 0; got {value!r}")
    return int(value)


def list_argument(arguments: Arguments, name: str) -> list[str]:
    """Returns the list of strings `name`. Raises ValueError otherwise."""
    value = arguments.get(name)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError(f"argument {name!r} of an instruction must be a list of texts; got {value!r}")
    return value


def compare(found: int, relation: object, wanted: int) -> bool:
    """True if `found` has the instruction's relation to `wanted`. Raises ValueError for an unknown relation."""
    if relation == LESS_THAN:
        return found < wanted
    if relation == AT_LEAST:
        return found >= wanted
    raise ValueError(f"unknown relation in an instruction: got {relation!r}; valid: {LESS_THAN!r}, {AT_LEAST!r}")
