"""The demo-mcq task: four-choice questions with one reasoned answer; knows no tokenizer."""

import random
from collections.abc import Callable

from trimode.recipes.demo.tasks.example import Example
from trimode.recipes.demo.tasks.words import CATEGORIES

LETTERS = "ABCD"
Question = tuple[str, list[str], int, str]
"""Question text, the four options, the index of the right one, the reasoning before the last line."""


def _marked(marks: list[str]) -> str:
    return ", ".join(f"{letter} is {mark}" for letter, mark in zip(LETTERS, marks, strict=True))


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
    reason = f"{_marked(kinds)}. The {kinds[right]} is {LETTERS[right]}, so {options[right]} is the answer."
    return f"Which word is a kind of {kinds[right]}?", options, right, reason


def extreme_number(rng: random.Random) -> Question:
    """The largest or the smallest of four numbers."""
    values = [10 * ten + rng.randrange(10) for ten in rng.sample(range(1, 10), 4)]
    word = rng.choice(("largest", "smallest"))
    best = max(values) if word == "largest" else min(values)
    right = values.index(best)
    options = [str(value) for value in values]
    reason = f"{_marked(options)}. The {word} is {LETTERS[right]}, so {best} is the answer."
    return f"Which number is the {word}?", options, right, reason


def parity(rng: random.Random) -> Question:
    """The only even, or the only odd, of four numbers."""
    word, remainder = rng.choice((("even", 0), ("odd", 1)))
    right = rng.randrange(4)
    others = rng.sample(range(10 + (1 - remainder), 100, 2), 3)
    values = [*others[:right], rng.randrange(10 + remainder, 100, 2), *others[right:]]
    marks = ["odd" if value % 2 else "even" for value in values]
    reason = f"{_marked(marks)}. The {word} one is {LETTERS[right]}, so {values[right]} is the answer."
    return f"Which number is {word}?", [str(value) for value in values], right, reason


def next_number(rng: random.Random) -> Question:
    """The next number of an arithmetic sequence."""
    step = rng.randint(2, 9)
    start = rng.randint(10, 40)
    first, second, third, answer = (start + step * index for index in range(4))
    values, right = _options(rng, answer)
    reason = (f"The step is {step}, so {third}+{step}={answer}. {_marked([str(value) for value in values])}. "
              f"The next one is {LETTERS[right]}.")
    return f"Which number is next: {first}, {second}, {third}?", [str(value) for value in values], right, reason


def total(rng: random.Random) -> Question:
    """The sum of two numbers."""
    left, more = rng.randint(10, 60), rng.randint(2, 9)
    answer = left + more
    values, right = _options(rng, answer)
    options = [str(value) for value in values]
    reason = f"{left}+{more}={answer}. {_marked(options)}. The sum is {LETTERS[right]}."
    return f"What is {left}+{more}?", options, right, reason


QUESTIONS: tuple[tuple[str, Callable[[random.Random], Question]], ...] = (
    ("words", kind_of_word), ("words", kind_of_word), ("compare", extreme_number), ("parity", parity),
    ("sequence", next_number), ("sum", total),
)


def draw(rng: random.Random) -> Example:
    """One four-choice question with its reasoned answer."""
    subset, make = rng.choice(QUESTIONS)
    question, options, right, reason = make(rng)
    listed = "\n".join(f"{letter}) {option}" for letter, option in zip(LETTERS, options, strict=True))
    row = {
        "problem": f"{question}\n\n{listed}", "options": listed,
        **dict(zip(LETTERS, options, strict=True)),
        "expected_answer": LETTERS[right], "subset_for_metrics": subset,
    }
    return Example(row, f"{reason}\nAnswer: \\boxed{{{LETTERS[right]}}}")
