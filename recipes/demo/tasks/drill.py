"""Training-only tasks: several sums or lookups in one row. Stories and questions alone hold too few to learn from."""

import random

from trimode.recipes.demo.tasks.example import Example
from trimode.recipes.demo.tasks.words import CATEGORIES, KEYWORDS

NUM_SUMS = 5
NUM_LOOKUPS = 9
LETTERS = "ABCD"


def _sum(rng: random.Random) -> tuple[str, int]:
    """An expression of the kinds the stories use, and its value."""
    operator = rng.choice("++--*/")
    small = rng.randint(2, 9)
    if operator == "+":
        left = rng.randint(10, 60)
        return f"{left}+{small}", left + small
    if operator == "-":
        left = rng.randint(small + 10, 65)
        return f"{left}-{small}", left - small
    if operator == "*":
        left = rng.randint(2, 6)
        right = rng.randint(max(4, (9 + left) // left), 9)
        return f"{left}*{right}", left * right
    right = rng.choice((2, 2, 3))
    result = rng.randint(10, 19 if right == 2 else 16)
    return f"{right * result}/{right}", result


def draw_sums(rng: random.Random) -> Example:
    """Sums to work out one after the other."""
    sums = [_sum(rng) for _ in range(NUM_SUMS)]
    problem = "Solve this problem.\n" + ", ".join(text for text, _ in sums)
    return Example({"problem": problem}, ", ".join(f"{text}={value}" for text, value in sums) + ".")


def draw_lookups(rng: random.Random) -> Example:
    """Pairs of a list to repeat in another order. Options, keywords and names need the same lookup, once per row."""
    if rng.random() < 0.5:
        tens, ones = rng.sample(range(1, 10), NUM_LOOKUPS), rng.sample(range(10), NUM_LOOKUPS)
        keys = [f"{ten}{one}" for ten, one in zip(tens, ones, strict=True)]
    else:
        keys = rng.sample((*CATEGORIES, *KEYWORDS, "odd", "even"), NUM_LOOKUPS)
    values = [rng.choice(LETTERS if rng.random() < 0.5 else KEYWORDS) for _ in keys]
    pairs = [f"{key} {value}" for key, value in zip(keys, values, strict=True)]
    problem = "Solve this problem.\n" + ", ".join(pairs)
    rng.shuffle(pairs)
    return Example({"problem": problem}, ", ".join(pairs) + ".")
