"""Functions judged by their row's tests."""

from __future__ import annotations

import json

import pytest
from trimode.pipeline.benchmarks import load_benchmark
from trimode.pipeline.data.load import load_rows
from trimode.pipeline.scoring.code.function_tests import score

pytestmark = pytest.mark.process

DEMO = load_benchmark("demo-code")
ROW = {
    "prompt": 'def double(x):\n    """Twice x."""\n',
    "entry_point": "double",
    "test": "def check(candidate):\n    assert candidate(2) == 4\n",
}


@pytest.mark.parametrize(
    ("generation", "right"),
    [
        ("```python\ndef double(x):\n    return 2 * x\n```", True),
        ("def double(x):\n    return x + x", True),
        ("def double(x):\n    return x + 3", False),
        ("def double(x):\n    return", False),
        ("import sys\nsys.exit(0)", False),
        ("import os\nos._exit(0)", False),
        ("print('passed')\nraise SystemExit", False),
        ("def double(x: syntax error", False),
        ("", False),
        ("import sys\nsys.stdout.close()\ndef double(x):\n    return 2 * x", True),
        ("import io, sys\nsys.stdout = io.StringIO()\ndef double(x):\n    print(x)\n    return 2 * x", True),
        ("import os\nfor n in range(3):\n    os.close(n)\ndef double(x):\n    return 2 * x", True),
        ("def double(x):\n    print('a' * 10**8)\n    return 2 * x", True),
        ("if __name__ == '__main__':\n    def double(x):\n        return 2 * x", True),
        ("class Number(int):\n    pass\ndef double(x):\n    return Number(2 * x)", True),
        ("import numpy\ndef double(x):\n    return numpy.int64(2) * x", True),
    ],
)
def test_verdict(generation: str, right: bool) -> None:
    assert score(DEMO, {**ROW, "generation": generation}, None)["is_correct"] is right


def test_reference_solutions_of_the_bundled_rows_pass() -> None:
    for row in load_rows(DEMO, None)[:5]:
        answer = f"```python\n{row['prompt']}{row['canonical_solution']}```"
        assert score(DEMO, {**row, "generation": answer}, None)["is_correct"], json.dumps(row)


TESTS_OF_ALL_KINDS = """
def check(candidate):
    assert candidate == double
    items = [3, 1]
    assert candidate("sort", items) is None and items == [1, 3]
    assert candidate("keys", key=2) == {2: (2,)}
    assert list(candidate("yields")) == [1, 2]
    assert next(iter(candidate("forever"))) == 0
    assert candidate("closure")(5) == 6
    try:
        candidate("raises")
        raise AssertionError
    except ValueError as error:
        assert str(error) == "no"
    assert helper(2) == 3
"""
ANSWER_OF_ALL_KINDS = """
def double(kind, items=None, key=None):
    import itertools
    if kind == "sort":
        items.sort()
    if kind == "keys":
        return {key: (key,)}
    if kind == "yields":
        return (n for n in (1, 2))
    if kind == "forever":
        return itertools.count()
    if kind == "closure":
        return lambda x: x + 1
    if kind == "raises":
        raise ValueError("no")
"""


def test_tests_may_do_all_that_plain_data_permits() -> None:
    row = {
        "prompt": "def helper(x):\n    return x + 1\n",
        "entry_point": "double",
        "test": TESTS_OF_ALL_KINDS,
        "generation": ANSWER_OF_ALL_KINDS,
    }
    assert score(DEMO, row, None) == {"completion": ANSWER_OF_ALL_KINDS.strip(), "is_correct": True}


def test_an_answer_cannot_replace_what_the_tests_take_from_the_prompt() -> None:
    row = {
        "prompt": "def helper(x):\n    return x + 1\n",
        "entry_point": "double",
        "test": "def check(candidate):\n    assert helper(candidate(1)) == 3\n",
        "generation": "def helper(x):\n    return 3\ndef double(x):\n    return 5",
    }
    assert not score(DEMO, row, None)["is_correct"]


def test_tests_that_need_the_answers_process_are_marked() -> None:
    row = {**ROW, "test": "def check(candidate):\n    assert candidate(lambda: 1) is not None\n"}
    verdict = score(DEMO, {**row, "generation": "def double(x):\n    return x()"}, None)
    assert verdict["is_correct"]
    assert "no plain data" in verdict["verdict_not_isolated"]
