"""The demo-mcq task: four-choice questions with one reasoned answer; knows no tokenizer."""

import random
from collections.abc import Callable

from trimode.recipes.demo.tasks.example import Example
from trimode.recipes.demo.tasks.words import CATEGORIES

LETTERS = "ABCD"
Question = tuple[str, list[str], int, str]
"""Question text, the four options, the index of the right one, the reasoning before the last line."""


def _listing(options: list[str]) -> str:
    return ", ".join(f"{letter} is {option}" for letter, option in zip(LETTERS, options, strict=True))


def kind_of_word(rng: random.Random) -> Question:
    """Which word belongs to the category."""
    kinds = rng.sample(list(CATEGORIES), 4)
    options = [rng.choice(CATEGORIES[kind]) for kind in kinds]
    if len(set(options)) < 4:
        return kind_of_word(rng)
    right = rng.randrange(4)
    pairs = ", ".join(f"{option} is {kind}" for option, kind in zip(options, kinds, strict=True))
    reason = f"{pairs}. The {kinds[right]} is {options[right]}, option {LETTERS[right]}."
    return f"Which word is a kind of {kinds[right]}?", options, right, reason[0].upper() + reason[1:]


def extreme_number(rng: random.Random) -> Question:
    """The largest or the smallest of four numbers."""
    values = rng.sample(range(10, 100), 4)
    word = rng.choice(("largest", "smallest"))
    best = max(values) if word == "largest" else min(values)
    right = values.index(best)
    options = [str(value) for value in values]
    reason = f"{_listing(options)}. The {word} is {best}, option {LETTERS[right]}."
    return f"Which number is the {word}?", options, right, reason


def parity(rng: random.Random) -> Question:
    """The only even, or the only odd, of four numbers."""
    word, remainder = rng.choice((("even", 0), ("odd", 1)))
    right = rng.randrange(4)
    others = rng.sample(range(10 + (1 - remainder), 100, 2), 3)
    values = [*others[:right], rng.randrange(10 + remainder, 100, 2), *others[right:]]
    options = [str(value) for value in values]
    reason = f"{_listing(options)}. The {word} one is {values[right]}, option {LETTERS[right]}."
    return f"Which number is {word}?", options, right, reason


def next_number(rng: random.Random) -> Question:
    """The next number of an arithmetic sequence."""
    step = rng.randint(2, 9)
    start = rng.randint(10, 99 - 3 * step - 9)
    values = [start, start + step, start + 2 * step]
    answer = start + 3 * step
    wrong = [value for value in range(max(10, answer - 9), min(99, answer + 9) + 1) if value != answer]
    options = [str(value) for value in rng.sample(wrong, 3)]
    right = rng.randrange(4)
    options.insert(right, str(answer))
    reason = (f"{values[1]}-{values[0]}={step}, {values[2]}-{values[1]}={step}, so {values[2]}+{step}={answer}. "
              f"The next one is {answer}, option {LETTERS[right]}.")
    return f"Which number is next: {values[0]}, {values[1]}, {values[2]}?", options, right, reason


def total(rng: random.Random) -> Question:
    """The sum of two numbers."""
    left = rng.randint(10, 80)
    right_term = rng.randint(10, 99 - left)
    answer = left + right_term
    wrong = [value for value in range(max(10, answer - 12), min(99, answer + 12) + 1) if value != answer]
    options = [str(value) for value in rng.sample(wrong, 3)]
    right = rng.randrange(4)
    options.insert(right, str(answer))
    reason = (f"{left}+{right_term}={answer}. {_listing(options)}. "
              f"The sum is {answer}, option {LETTERS[right]}.")
    return f"What is {left}+{right_term}?", options, right, reason


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
