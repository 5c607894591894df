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
    ],
)
def test_verdict(generation: str, right: bool) -> None:
    assert score(DEMO, {**ROW, "generation": generation}, None)["is_correct"] is right


def test_reference_solutions_of_the_bundled_rows_pass() -> None:
    for row in load_rows(DEMO, None)[:5]:
        answer = f"```python\n{row['prompt']}{row['canonical_solution']}```"
        assert score(DEMO, {**row, "generation": answer}, None)["is_correct"], json.dumps(row)
