"""MBPP+ inputs in their Python types: JSON has no tuples, sets or complex numbers, so they are restored on reading.

Which problem takes which types is a fact of MBPP+ v0.2.0 as evalplus (Apache-2.0) reads it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Convert = Callable[[Any], Any]
"""Converts one argument from its JSON form."""


def same(value: Any) -> Any:  # noqa: ANN401 - arguments of any type
    """Returns the value unchanged."""
    return value


def tuples(value: list[Any]) -> list[tuple[Any, ...]]:
    """Returns a list of tuples."""
    return [tuple(item) for item in value]


def tuple_of_tuples(value: list[Any]) -> tuple[tuple[Any, ...], ...]:
    """Returns a tuple of tuples."""
    return tuple(tuple(item) for item in value)


def tuple_of_items(value: list[Any]) -> tuple[Any, ...]:
    """Returns a tuple, its inner lists as tuples."""
    return tuple(tuple(item) if isinstance(item, list) else item for item in value)


def sets(value: list[Any]) -> list[Any]:
    """Returns a list of sets. An empty set is an empty dict, as in evalplus."""
    return [set(item) if isinstance(item, list) and item else {} for item in value]


def tuple_values(value: dict[str, Any]) -> dict[str, Any]:
    """Returns a dict of tuples."""
    return {key: tuple(item) for key, item in value.items()}


def nested_tuples(value: Any) -> Any:  # noqa: ANN401 - arguments of any type
    """Returns the value with tuples for lists on every level."""
    return tuple(map(nested_tuples, value)) if isinstance(value, list) else value


EVERY_ARGUMENT: dict[Convert, tuple[int, ...]] = {
    tuple: (
        *(2, 116, 132, 143, 222, 261, 273, 394, 399, 421, 424, 429, 470, 560, 579, 596, 616, 630, 726, 740, 744, 809),
    ),
    tuples: (63, 64, 70, 94, 120, 237, 272, 299, 400, 409, 417, 438, 473, 614, 780),
    tuple_of_tuples: (259, 401, 445),
    tuple_of_items: (278,),
    nested_tuples: (580, 615, 791),
    sets: (115,),
    complex: (252,),
}
"""Conversion -> numbers of the problems that use it for all arguments."""
BY_POSITION: dict[tuple[Convert, ...], tuple[int, ...]] = {
    (tuples, same): (75, 413, 444, 753),
    (same, tuple): (106, 750),
    (tuple, same): (250, 405, 446, 617, 720, 763, 808),
    (tuple, same, same): (307,),
    (tuple_values, same, same): (722,),
    (float, complex): (124,),
}
"""One conversion per argument -> numbers of the problems that use them."""

_ALIKE = {number: convert for convert, numbers in EVERY_ARGUMENT.items() for number in numbers}
_POSITIONAL = {number: converts for converts, numbers in BY_POSITION.items() for number in numbers}


def python_inputs(task_id: str, inputs: list[list[Any]]) -> list[list[Any]]:
    """Returns the argument lists of problem `Mbpp/<number>` in their Python types."""
    number = int(task_id.rpartition("/")[2])
    if number in _POSITIONAL:
        pairs = [zip(_POSITIONAL[number], arguments, strict=True) for arguments in inputs]
        return [[convert(argument) for convert, argument in pair] for pair in pairs]
    convert = _ALIKE.get(number, same)
    return [[convert(argument) for argument in arguments] for arguments in inputs]
