"""The demo-mcq task: four-choice questions with one reasoned answer."""

import random
from collections.abc import Callable

from trimode.recipes.demo.tasks.example import Example
from trimode.recipes.demo.tasks.words import CATEGORIES

LETTERS = "ABCD"
Question = tuple[str, list[str], int, str]
"""Question text, the four options, the index of the right one, the reasoning before the last line."""


def _reason(marks: list[str], found: str, right: int) -> str:
    """What each option says, with its letter behind it; then what was found, with the letter that goes with it."""
    listed = ", ".join(f"{mark} {letter}" for mark, letter in zip(marks, LETTERS, strict=True))
    return f"{listed}. {found} {LETTERS[right]}. The answer is {LETTERS[right]}."


def _options(rng: random.Random, answer: int) -> tuple[list[int], int]:
    """The answer among three other two-digit numbers that end in other digits, and its place."""
    digits = rng.sample([digit for digit in range(10) if digit != answer % 10], 3)
    values = [10 * max(1, answer // 10 + rng.choice((-1, 0, 0, 1))) + digit for digit in digits]
    right = rng.randrange(4)
    values.insert(right, answer)
    return values, right


def kind_of_word(rng: random.Random) -> Question:
    """Which word belongs to the category."""
    kinds = rng.sample(list(CATEGORIES), 4)
    options = [rng.choice(CATEGORIES[kind]) for kind in kinds]
    right = rng.randrange(4)
    return f"Which word is a kind of {kinds[right]}?", options, right, _reason(kinds, kinds[right], right)


def extreme_number(rng: random.Random) -> Question:
    """The largest or the smallest of four numbers."""
    tens, ones = rng.sample(range(1, 10), 4), rng.sample(range(10), 4)
    values = [10 * ten + one for ten, one in zip(tens, ones, strict=True)]
    word = rng.choice(("largest", "smallest"))
    best = max(values) if word == "largest" else min(values)
    right = values.index(best)
    options = [str(value) for value in values]
    return f"Which number is the {word}?", options, right, _reason(options, f"The {word} number {best}", right)


def parity(rng: random.Random) -> Question:
    """The only even, or the only odd, of four numbers."""
    word, remainder = rng.choice((("even", 0), ("odd", 1)))
    right = rng.randrange(4)
    others = rng.sample(range(10 + (1 - remainder), 100, 2), 3)
    values = [*others[:right], rng.randrange(10 + remainder, 100, 2), *others[right:]]
    marks = ["odd" if value % 2 else "even" for value in values]
    return f"Which number is {word}?", [str(value) for value in values], right, _reason(marks, word, right)


def plus_or_minus(rng: random.Random) -> Question:
    """The sum or the difference of two numbers."""
    more = rng.randint(2, 9)
    if rng.random() < 0.5:
        left = rng.randint(10, 60)
        answer, operator = left + more, "+"
    else:
        left = rng.randint(10 + more, 65)
        answer, operator = left - more, "-"
    values, right = _options(rng, answer)
    options = [str(value) for value in values]
    reason = _reason(options, f"{left}{operator}{more}={answer}", right)
    return f"What is {left}{operator}{more}?", options, right, reason


QUESTIONS: tuple[tuple[str, Callable[[random.Random], Question]], ...] = (
    ("words", kind_of_word),
    ("words", kind_of_word),
    ("compare", extreme_number),
    ("parity", parity),
    ("sums", plus_or_minus),
    ("sums", plus_or_minus),
)


def draw(rng: random.Random) -> Example:
    """One four-choice question with its reasoned answer."""
    subset, make = rng.choice(QUESTIONS)
    question, options, right, reason = make(rng)
    listed = "\n".join(f"{letter}) {option}" for letter, option in zip(LETTERS, options, strict=True))
    row = {
        "problem": f"{question}\n\n{listed}",
        "options": listed,
        **dict(zip(LETTERS, options, strict=True)),
        "expected_answer": LETTERS[right],
        "subset_for_metrics": subset,
    }
    return Example(row, f"{reason}\nAnswer: \\boxed{{{LETTERS[right]}}}")
