"""A training-only task: several sums in one row, so that arithmetic is met more often than in stories."""

import random

from trimode.recipes.demo.tasks.example import Example

NUM_SUMS = 5


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


def draw(rng: random.Random) -> Example:
    """Some sums to work out one after the other."""
    sums = [_sum(rng) for _ in range(NUM_SUMS)]
    problem = "Solve this problem.\n" + ", ".join(text for text, _ in sums)
    return Example({"problem": problem}, ", ".join(f"{text}={value}" for text, value in sums) + ".")
