"""The demo-code task: complete a small Python function, with unit tests."""

import random
from collections.abc import Callable
from typing import Any

from trimode.recipes.demo.tasks.example import Example

VERBS: tuple[str, ...] = ("get", "make", "find", "compute", "build", "take", "solve", "apply")
NOUNS: tuple[str, ...] = (
    "value",
    "result",
    "score",
    "answer",
    "output",
    "amount",
    "item",
    "reply",
    "figure",
    "thing",
)
Body = tuple[str, str, list[str], list[tuple[Any, ...]]]
"""Parameters, docstring, body lines, argument tuples of the unit tests."""

ARITHMETIC: tuple[tuple[str, str], ...] = (("plus", "+"), ("minus", "-"), ("times", "*"))
CONDITIONS: tuple[tuple[str, str], ...] = (("above", ">"), ("below", "<"), ("not equal to", "!="))
FOLDS: tuple[tuple[str, str], ...] = (("sum", "sum"), ("number", "len"), ("sorted list", "sorted"), ("list", "list"))
STRINGS: tuple[tuple[str, str], ...] = (
    ("in upper case", "text = text.upper()"),
    ("in lower case", "text = text.lower()"),
    ("reversed", "text = text[::-1]"),
    ("stripped", "text = text.strip()"),
    ("in title case", "text = text.title()"),
)


def three_steps(rng: random.Random) -> Body:
    """Three arithmetic operations, two of them with a constant."""
    first, second, third = (rng.choice(ARITHMETIC) for _ in range(3))
    left, right = rng.sample("abxyn", 2)
    constant, last = rng.randint(2, 99), rng.randint(2, 9)
    doc = f"Return {left} {first[0]} {right}, {second[0]} {constant}, then {third[0]} {last}."
    lines = [
        f"result = {left} {first[1]} {right}",
        f"result = result {second[1]} {constant}",
        f"result = result {third[1]} {last}",
        "return result",
    ]
    return f"{left}, {right}", doc, lines, [(3, 4), (10, 2), (0, 7), (-5, 6)]


def filtered(rng: random.Random) -> Body:
    """Keep some numbers, change them, fold them."""
    condition, change, fold = rng.choice(CONDITIONS), rng.choice(ARITHMETIC), rng.choice(FOLDS)
    limit, constant = rng.randint(2, 20), rng.randint(2, 9)
    doc = f"Return the {fold[0]} of the numbers {condition[0]} {limit}, each {change[0]} {constant}."
    lines = [
        f"kept = [n for n in numbers if n {condition[1]} {limit}]",
        f"return {fold[1]}([n {change[1]} {constant} for n in kept])",
    ]
    return "numbers", doc, lines, [([1, limit, 30, 7, 12, 2],), ([],), ([limit, 21, 1],), ([5, 9, 3, 16],)]


def text_steps(rng: random.Random) -> Body:
    """One change of a string, then repeat it and add an end."""
    change = rng.choice(STRINGS)
    count, end = rng.randint(2, 9), rng.choice("!?.#")
    doc = f'Return text {change[0]}, {count} times, then "{end}".'
    lines = [change[1], f"text = text * {count}", f'return text + "{end}"']
    return "text", doc, lines, [("ab",), (" Hello World ",), ("",), ("xYz",)]


def branch(rng: random.Random) -> Body:
    """One of two words, by a comparison."""
    condition = rng.choice(CONDITIONS)
    name = rng.choice("abxyn")
    limit = rng.randint(2, 99)
    yes, no = rng.sample(("yes", "no", "big", "small", "high", "low", "good", "bad"), 2)
    doc = f'Return "{yes}" if {name} is {condition[0]} {limit}, else "{no}".'
    lines = [f"if {name} {condition[1]} {limit}:", f'    return "{yes}"', f'return "{no}"']
    return name, doc, lines, [(limit,), (limit + 1,), (limit - 1,), (0,)]


BODIES: tuple[Callable[[random.Random], Body], ...] = (three_steps, filtered, text_steps, branch)


def _check(source: str, entry_point: str, cases: list[tuple[Any, ...]]) -> str:
    """The unit tests, with the values that the reference solution returns."""
    namespace: dict[str, Any] = {}
    exec(source, namespace)  # noqa: S102 - the source is this module's own template
    function = namespace[entry_point]
    asserts = [f"    assert candidate({', '.join(map(repr, case))}) == {function(*case)!r}" for case in cases]
    return "def check(candidate):\n" + "\n".join(asserts) + "\n"


def draw(rng: random.Random) -> Example:
    """One function header with docstring, and the whole function in a python fence."""
    parameters, doc, lines, cases = rng.choice(BODIES)(rng)
    name = f"{rng.choice(VERBS)}_{rng.choice(NOUNS)}"
    header = f"def {name}({parameters}):\n"
    prompt = f'{header}    """{doc}"""\n'
    body = "".join(f"    {line}\n" for line in lines)
    row = {
        "prompt": prompt,
        "question": prompt.replace("    ", "\t"),
        "entry_point": name,
        "canonical_solution": body,
        "test": _check(prompt + body, name, cases),
    }
    return Example(row, f"```python\n{header}{body}```")
