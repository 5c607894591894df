"""Plain data as JSON: what crosses to the judge, and what does not."""

from __future__ import annotations

import collections
import enum
import json
import math
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import pytest
from trimode.pipeline.scoring.sandbox.values import MANY_ITEMS, Opaque, decode, digest, encode, is_large


class Point(NamedTuple):
    x: int
    y: int


class Colour(enum.IntEnum):
    RED = 1


class Name(str):
    pass


class Liar(int):
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = int.__hash__


def crossed(value: object) -> Any:
    return decode(json.loads(json.dumps(encode(value, lambda _: 0))))


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, 0, -(10**5000), 1.5, math.inf, "text \ud83d", b"a\0", bytearray(b"b"), 1 + 2j),
        *([], [1, [2, (3, {4})]], (), ((1,), [2]), {1: "a", (2, 3): [4]}, {"h": "0x1"}, {frozenset({1})}),
        *(range(1, 9, 2), Decimal("1.10"), Fraction(1, 3), [10**5000, 1], [1.0, 10**5000], [True, 10**5000]),
        *(collections.deque([1, 2], 3), collections.Counter("aab"), collections.OrderedDict(a=1)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_plain_data_arrives_as_it_was(value: object) -> None:
    found = crossed(value)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "value",
    [
        *(np.array([[1, 2], [3, 4]]), np.array([1.5, math.nan]), np.array([1j]), np.array(["a", "bc"])),
        *(
            np.array([1, "a", [2]], dtype=object),
            np.zeros((0, 3)),
            np.float64(2.5),
            np.int8(3),
            np.bool_(1),
            np.str_("a"),
        ),
    ],
)
def test_numpy_arrives_as_it_was(value: Any) -> None:
    found = crossed(value)
    assert type(found) is type(value)
    assert found.dtype == value.dtype
    assert found.shape == value.shape
    assert repr(found) == repr(value)


def test_simple_subclasses_arrive_as_their_content() -> None:
    assert crossed([Point(1, 2), Colour.RED, Name("n")]) == [(1, 2), 1, "n"]
    assert [type(item) for item in crossed([Point(1, 2), Colour.RED, Name("n")])] == [tuple, int, str]


def test_views_arrive_as_views() -> None:
    numbers = {1: 2}
    assert crossed(numbers.keys()) == {1}
    assert crossed(numbers.items()) == {(1, 2)}
    assert list(crossed(numbers.values())) == [2]


@pytest.mark.parametrize("value", [Liar(4), [Liar(4)], object(), [object()]])
def test_nothing_else_equals_anything(value: object) -> None:
    found = crossed(value)
    assert found not in (4, [4])
    assert isinstance(found[0] if isinstance(found, list) else found, Opaque)


@pytest.mark.parametrize(
    "form",
    [
        {"t": 5},
        {"x": 1},
        {},
        {"d": [[[]], [1]]},
        {"m": ["dict", [], []]},
        {"h": 1},
        {"a": ["V8", [1], [1]]},
        {"s": [[]]},
    ],
)
def test_bad_forms_are_errors(form: object) -> None:
    with pytest.raises((ValueError, TypeError, KeyError)):
        decode(form)


def test_equal_digests_mean_equal_values() -> None:
    many = [(number, "a") for number in range(MANY_ITEMS)]
    assert is_large(many)
    assert not is_large(many[:10])
    assert digest(many) == digest(list(many))
    assert digest(many) != digest(tuple(many))
    assert digest(many) != digest([*many[:-1], (0, "a")])
    assert digest([*many, Liar(4)]) is None
