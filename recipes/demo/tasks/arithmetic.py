"""The demo-math task: word problems of two to four steps with a worked answer."""

import random
from collections.abc import Callable, Sequence

from trimode.recipes.demo.tasks.example import Example
from trimode.recipes.demo.tasks.words import NAMES, THINGS

Step = tuple[int, str, int, int]
Story = tuple[str, str, list[Step], str, str]
"""What happens, what is asked, the steps (left, operator, right, result), the unit, how the answer sentence starts."""


def _product(rng: random.Random) -> tuple[int, int, int]:
    """Two factors and their product of two digits."""
    left = rng.randint(2, 6)
    right = rng.randint(max(4, (9 + left) // left), 9)
    return left, right, left * right


def buys_and_gives(rng: random.Random) -> Story:
    """Add what is bought, take off what is given away."""
    (name, pronoun), things = rng.choice(NAMES), rng.choice(THINGS)
    start, more = rng.randint(10, 49), rng.randint(2, 9)
    total = start + more
    less = rng.randint(2, min(9, total - 10))
    text = f"{name} has {start} {things}. {pronoun} buys {more} more and then gives away {less}."
    return (
        text,
        f"How many {things} does {name} have now?",
        [(start, "+", more, total), (total, "-", less, total - less)],
        things,
        f"{name} has",
    )


def loses_and_finds(rng: random.Random) -> Story:
    """Take off what is lost, add what is found."""
    (name, pronoun), things = rng.choice(NAMES), rng.choice(THINGS)
    start, lost, found = rng.randint(19, 58), rng.randint(2, 9), rng.randint(2, 9)
    kept = start - lost
    text = f"{name} has {start} {things}. {pronoun} loses {lost} of them and finds {found} others."
    return (
        text,
        f"How many {things} does {name} have now?",
        [(start, "-", lost, kept), (kept, "+", found, kept + found)],
        things,
        f"{name} has",
    )


def boxes_and_loose(rng: random.Random) -> Story:
    """Multiply boxes by their content, add the loose ones."""
    (name, _), things = rng.choice(NAMES), rng.choice(THINGS)
    boxes, each, packed = _product(rng)
    loose = rng.randint(2, 9)
    text = f"{name} has {boxes} boxes with {each} {things} each and {loose} more {things}."
    return (
        text,
        f"How many {things} does {name} have?",
        [(boxes, "*", each, packed), (packed, "+", loose, packed + loose)],
        things,
        f"{name} has",
    )


def boxes_and_broken(rng: random.Random) -> Story:
    """Multiply boxes by their content, take off the broken ones."""
    (name, _), things = rng.choice(NAMES), rng.choice(THINGS)
    boxes, each, packed = _product(rng)
    if packed < 12:
        return boxes_and_broken(rng)
    broken = rng.randint(2, min(9, packed - 10))
    text = f"{name} has {boxes} boxes with {each} {things} each. {broken} of the {things} are broken."
    return (
        text,
        f"How many good {things} does {name} have?",
        [(boxes, "*", each, packed), (packed, "-", broken, packed - broken)],
        things,
        f"{name} has",
    )


def together(rng: random.Random) -> Story:
    """The second person has more; add both."""
    (name, _), (other, _) = rng.sample(NAMES, 2)
    things = rng.choice(THINGS)
    first = rng.randint(3, 9)
    more = rng.randint(10 - first, 9)
    second = first + more
    text = f"{name} has {first} {things}. {other} has {more} more than {name}."
    return (
        text,
        f"How many {things} do they have together?",
        [(first, "+", more, second), (second, "+", first, first + second)],
        things,
        "Together they have",
    )


def shared(rng: random.Random) -> Story:
    """Add two heaps, divide among friends."""
    (name, _), things = rng.choice(NAMES), rng.choice(THINGS)
    friends = rng.choice((2, 2, 3))
    each = rng.randint(10, 19 if friends == 2 else 16)
    total = friends * each
    second = rng.randint(2, 9)
    first = total - second
    text = f"{name} has {first} red {things} and {second} blue {things} for {friends} friends."
    return (
        text,
        f"How many {things} does each friend get?",
        [(first, "+", second, total), (total, "/", friends, each)],
        things,
        "Each friend gets",
    )


STORIES: tuple[Callable[[random.Random], Story], ...] = (
    buys_and_gives,
    loses_and_finds,
    boxes_and_loose,
    boxes_and_broken,
    together,
    shared,
)


ORDER = ("First", "Then", "Next", "Finally")


def later(rng: random.Random, text: str, steps: list[Step], things: str, change: int) -> tuple[str, list[Step]]:
    """One more event behind the others, which changes the number, and the step that it takes."""
    value, word = steps[-1][3], "Later" if len(steps) == 2 else "Then"
    if rng.random() < 0.5 and value - change >= 10:
        return f"{text} {word} {change} {things} are lost.", [*steps, (value, "-", change, value - change)]
    return f"{text} {word} {change} {things} are added.", [*steps, (value, "+", change, value + change)]


def worked_out(problem: str, steps: list[Step], unit: str, subject: str, order: Sequence[str] = ORDER) -> Example:
    """A problem with its answer; `order` has the first word of each step."""
    worked = " ".join(
        f"{word}, {left}{operator}{right}={result} {unit}."
        for word, (left, operator, right, result) in zip(order, steps, strict=False)
    )
    result = steps[-1][3]
    answer = f"{worked} {subject} {result} {unit}. The answer is \\boxed{{{result}}}."
    return Example({"problem": problem, "expected_answer": str(result), "reference_solution": answer}, answer)


def draw(rng: random.Random) -> Example:
    """One word problem with its worked answer."""
    text, question, steps, unit, subject = rng.choice(STORIES)(rng)
    for _ in range(0 if question.endswith("get?") else rng.choice((0, 1, 1, 2))):
        text, steps = later(rng, text, steps, unit, rng.randint(2, 9))
    return worked_out(f"{text} {question}", steps, unit, subject)
