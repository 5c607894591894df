"""Small functions: appends the reply's code and the row's tests to the prompt and runs the whole in the sandbox.

Rows have `prompt`, `entry_point` and `test` (a `check(candidate)` function).
"""

from __future__ import annotations

import secrets
from pathlib import Path

from trimode.core.protocol import Row
from trimode.pipeline.benchmarks import Benchmark
from trimode.pipeline.scoring.code.extract import extract_code
from trimode.pipeline.scoring.sandbox.run import Limits, run_program
from trimode.pipeline.scoring.sandbox.service import service_url
from trimode.pipeline.scoring.scorer import answer_text

VERDICT_KEYS = ("completion", "is_correct")
ROW_LIMIT_S = 60.0
LIMITS = Limits(time_s=10.0, memory_bytes=1 << 30)


def score(benchmark: Benchmark, row: Row, data_dir: Path | None) -> Row:  # noqa: ARG001 - every scorer's signature
    """Returns `completion` and `is_correct`: the tests ran to their end. A program that exits before that is wrong."""
    text = answer_text(benchmark, row)
    if text is None:
        return no_answer(benchmark, row)
    completion = extract_code(text)
    passed = f"passed {secrets.token_hex(16)}"
    parts = [row["prompt"] + completion, row["test"], f"check({row['entry_point']})", f"print({passed!r})"]
    outcome = run_program("\n".join(parts) + "\n", limits=LIMITS)
    last_line = outcome.stdout.rstrip("\n").rpartition("\n")[2]
    return {"completion": completion, "is_correct": outcome.status == "completed" and last_line == passed}


def no_answer(benchmark: Benchmark, row: Row) -> Row:  # noqa: ARG001 - every scorer's signature
    """Returns the verdict of no code: wrong."""
    return {"completion": "", "is_correct": False}


def check(benchmark: Benchmark, data_dir: Path | None) -> None:  # noqa: ARG001 - every scorer's signature
    """Raises ConfigError if TRIMODE_SANDBOX has an unknown value."""
    service_url()
