"""A training-only task: several sums in one row, so that arithmetic is met more often than in stories."""

import random

from trimode.recipes.demo.tasks.example import Example

NUM_SUMS = 5


def _sum(rng: random.Random) -> tuple[str, int]:
    """An expression of the kinds the stories use, and its value, both below one hundred."""
    operator = rng.choice("++--*/")
    if operator == "+":
        left = rng.randint(10, 89)
        right = rng.randint(10, 99 - left)
        return f"{left}+{right}", left + right
    if operator == "-":
        left = rng.randint(20, 99)
        right = rng.randint(10, left - 10)
        return f"{left}-{right}", left - right
    if operator == "*":
        left = rng.randint(3, 9)
        right = rng.randint((9 + left) // left, 9)
        return f"{left}*{right}", left * right
    right = rng.randint(2, 9)
    result = rng.randint(10, 99 // right)
    return f"{right * result}/{right}", result


def draw(rng: random.Random) -> Example:
    """Some sums to work out one after the other."""
    sums = [_sum(rng) for _ in range(NUM_SUMS)]
    problem = "Solve this problem.\n" + ", ".join(text for text, _ in sums)
    return Example({"problem": problem}, ", ".join(f"{text}={value}" for text, value in sums) + ".")
