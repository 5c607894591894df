"""The demo-math task: two- and three-step word problems with a worked answer; knows no tokenizer."""

import random
from collections.abc import Callable

from trimode.recipes.demo.tasks.example import Example
from trimode.recipes.demo.tasks.words import NAMES, THINGS

Story = tuple[str, list[tuple[int, str, int, int]], str, str]
"""Problem text, the steps (left, operator, right, result), the unit, and how the answer sentence starts and ends."""


def _between(rng: random.Random, low: int, high: int) -> int:
    return rng.randint(low, high)


def buys_and_gives(rng: random.Random) -> Story:
    """Add what is bought, take off what is given away."""
    (name, pronoun), things = rng.choice(NAMES), rng.choice(THINGS)
    start = _between(rng, 10, 80)
    more = _between(rng, 10, 99 - start) if start <= 89 else 10
    total = start + more
    less = _between(rng, 10, total - 10)
    text = (f"{name} has {start} {things}. {pronoun} buys {more} more and then gives away {less}. "
            f"How many {things} does {name} have now?")
    return text, [(start, "+", more, total), (total, "-", less, total - less)], things, f"{name} has"


def loses_and_finds(rng: random.Random) -> Story:
    """Take off what is lost, add what is found, add what is won."""
    (name, pronoun), things = rng.choice(NAMES), rng.choice(THINGS)
    start = _between(rng, 30, 99)
    lost = _between(rng, 10, start - 10)
    kept = start - lost
    found = _between(rng, 10, 99 - kept) if kept <= 89 else 10
    found = min(found, 99 - kept)
    text = (f"{name} has {start} {things}. {pronoun} loses {lost} of them and finds {found} others. "
            f"How many {things} does {name} have now?")
    return text, [(start, "-", lost, kept), (kept, "+", found, kept + found)], things, f"{name} has"


def boxes_and_loose(rng: random.Random) -> Story:
    """Multiply boxes by their content, add the loose ones."""
    (name, _), things = rng.choice(NAMES), rng.choice(THINGS)
    boxes = _between(rng, 3, 9)
    each = _between(rng, (9 + boxes) // boxes, 9)
    packed = boxes * each
    loose = _between(rng, 10, 99 - packed)
    text = (f"{name} has {boxes} boxes with {each} {things} each and {loose} more {things}. "
            f"How many {things} does {name} have?")
    return text, [(boxes, "*", each, packed), (packed, "+", loose, packed + loose)], things, f"{name} has"


def pays_and_keeps(rng: random.Random) -> Story:
    """Multiply price by count, take it off the purse."""
    (name, pronoun), things = rng.choice(NAMES), rng.choice(THINGS)
    count = _between(rng, 3, 9)
    price = _between(rng, (9 + count) // count, 9)
    cost = count * price
    purse = _between(rng, cost + 10, 99)
    text = (f"{name} has {purse} dollars. {pronoun} buys {count} {things} for {price} dollars each. "
            f"How many dollars does {name} keep?")
    return text, [(count, "*", price, cost), (purse, "-", cost, purse - cost)], "dollars", f"{name} has"


def together(rng: random.Random) -> Story:
    """The second person has more; add both."""
    (name, _), (other, _) = rng.sample(NAMES, 2)
    things = rng.choice(THINGS)
    first = _between(rng, 10, 44)
    more = _between(rng, 10, 99 - 2 * first)
    second = first + more
    text = (f"{name} has {first} {things}. {other} has {more} more than {name}. "
            f"How many {things} do they have together?")
    return text, [(first, "+", more, second), (first, "+", second, first + second)], things, "Together they have"


def shared(rng: random.Random) -> Story:
    """Add two heaps, divide among friends."""
    (name, _), things = rng.choice(NAMES), rng.choice(THINGS)
    friends = _between(rng, 2, 9)
    each = _between(rng, 10, 99 // friends)
    total = friends * each
    first = _between(rng, 10, total - 10)
    second = total - first
    text = (f"{name} has {first} red {things} and {second} blue {things} for {friends} friends. "
            f"How many {things} does each friend get?")
    return text, [(first, "+", second, total), (total, "/", friends, each)], things, "Each friend gets"


STORIES: tuple[Callable[[random.Random], Story], ...] = (
    buys_and_gives, loses_and_finds, boxes_and_loose, pays_and_keeps, together, shared,
)


def draw(rng: random.Random) -> Example:
    """One word problem with its worked answer."""
    problem, steps, unit, subject = rng.choice(STORIES)(rng)
    lines = [f"{left}{operator}{right}={result}" for left, operator, right, result in steps]
    result = steps[-1][3]
    answer = (f"First, {lines[0]} {unit}. "
              f"Then, {lines[1]} {unit}. {subject} {result} {unit}. The answer is \\boxed{{{result}}}.")
    row = {"problem": problem, "expected_answer": str(result), "reference_solution": answer}
    return Example(row, answer)
