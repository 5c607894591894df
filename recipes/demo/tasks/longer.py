"""The demo-long task: word problems as in demo-math, with more events and larger numbers than in training.

For tests only. The model has seen problems of at most four steps, and in later events only numbers of one digit.
"""

import random

from trimode.recipes.demo.tasks import arithmetic
from trimode.recipes.demo.tasks.example import Example

STORIES = tuple(story for story in arithmetic.STORIES if story is not arithmetic.shared)
"""Those that further events can follow."""
NUM_EVENTS = (1, 2, 2, 3)
LARGE_SHARE = 0.1
"""Of the later events."""
ORDER = ("First", "Then", "Next", "After that", "Finally")


def draw(rng: random.Random) -> Example:
    """One word problem with its worked answer."""
    text, question, steps, unit, subject = rng.choice(STORIES)(rng)
    for _ in range(rng.choice(NUM_EVENTS)):
        change = rng.randint(10, 39) if rng.random() < LARGE_SHARE else rng.randint(2, 9)
        text, steps = arithmetic.later(rng, text, steps, unit, change)
    return arithmetic.worked_out(f"{text} {question}", steps, unit, subject, ORDER)
