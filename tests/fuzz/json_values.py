"""Random JSON values for the fuzzers: fields of wrong types, extreme numbers, and strings that are no Unicode text."""

from __future__ import annotations

import random
from collections.abc import Sequence

TEXTS = (
    *("", " ", "x", "\ud83d", "\udc00a", "a\ud83d", "\U0001f600", "\0", "\ufeff", "\u2028", "é", "null", "1"),
    *("ar", "dlm", "linear_spec", "user"),
)
NUMBERS: tuple[float, ...] = (
    *(0, 1, -1, 2, 3.0, 0.5, -0.0, 1e-40, 5e-324, 1e20, 1e308, -1e308, 2**31, 2**63, -(2**63) - 1, 10**19, 10**399),
    *(float("inf"), float("-inf"), float("nan")),
)
ROLES = ("user", "system", "tool", 1, "\ud83d")
MOST_LEVELS = 3
"""Most levels of lists and objects inside each other."""


def value(chance: random.Random, names: Sequence[str], depth: int = 0) -> object:
    """Returns any JSON value, and now and then one that JSON cannot write by the standard.

    Args:
        chance: decides everything.
        names: fields of the input; keys of objects are taken from them and from TEXTS.
        depth: levels above this value.
    """
    kind = chance.randrange(9 if depth < MOST_LEVELS else 5)
    if kind < 2:
        return chance.choice(NUMBERS)
    if kind < 4:
        return chance.choice(TEXTS) * chance.choice([1, 1, 1, 3, 300])
    if kind == 4:
        return chance.choice([None, True, False])
    if kind < 7:
        return [value(chance, names, depth + 1) for _ in range(chance.randrange(4))]
    if kind == 7:
        keys = [*TEXTS, *names]
        return {chance.choice(keys): value(chance, names, depth + 1) for _ in range(chance.randrange(4))}
    return {"role": chance.choice(ROLES), "content": value(chance, names, depth + 1)}
