"""Small functions: the reply's code behind the prompt runs in a process of its own, and the row's tests call it.

Rows have `prompt`, `entry_point` and `test` (a `check(candidate)` function).
"""

from __future__ import annotations

import secrets
from pathlib import Path

from trimode.core.protocol import Row
from trimode.pipeline.benchmarks import Benchmark
from trimode.pipeline.scoring.code.extract import extract_code
from trimode.pipeline.scoring.sandbox.harness import JudgeLimits, WallClockError, run_judge
from trimode.pipeline.scoring.sandbox.run import Limits, run_program
from trimode.pipeline.scoring.sandbox.service import service_url
from trimode.pipeline.scoring.scorer import answer_text

VERDICT_KEYS = ("completion", "is_correct", "verdict_not_isolated")
ROW_LIMIT_S = 400.0
CPU_S = 10.0
"""CPU seconds of an answer for all tests of its row."""
JUDGE = "trimode.pipeline.scoring.code.function_tests_judge"
JUDGE_LIMITS = JudgeLimits(wall_s=300.0, memory_bytes=1 << 30)
LIMITS = Limits(time_s=300.0, cpu_s=int(CPU_S), memory_bytes=1 << 30)


def score(benchmark: Benchmark, row: Row, data_dir: Path | None) -> Row:  # noqa: ARG001 - every scorer's signature
    """Returns `completion` and `is_correct`: the tests ran to their end. A program that exits before that is wrong.

    `verdict_not_isolated` says why the tests had to run in the answer's own process, which could fake their result.
    """
    text = answer_text(benchmark, row)
    if text is None:
        return no_answer(benchmark, row)
    completion = extract_code(text)
    code = row["prompt"] + completion
    tests = {key: row[key] for key in ("prompt", "entry_point", "test")}
    verdict = run_judge(JUDGE, {"code": code, "cpu_s": CPU_S}, tests, JUDGE_LIMITS)
    if reason := verdict.get("not_expressible"):
        passed = _passes_in_one_process(code, row)
        return {"completion": completion, "is_correct": passed, "verdict_not_isolated": reason}
    return {"completion": completion, "is_correct": bool(verdict.get("passed"))}


def _passes_in_one_process(code: str, row: Row) -> bool:
    """True if the answer and its row's tests run to their end as one program."""
    passed = f"passed {secrets.token_hex(16)}"
    parts = [code, row["test"], f"check({row['entry_point']})", f"print({passed!r})"]
    outcome = run_program("\n".join(parts) + "\n", limits=LIMITS)
    if outcome.status == "timeout":
        raise WallClockError(f"the answer and its tests took longer than {LIMITS.time_s:g} s")
    last_line = outcome.stdout.rstrip("\n").rpartition("\n")[2]
    return outcome.status == "completed" and last_line == passed


def no_answer(benchmark: Benchmark, row: Row) -> Row:  # noqa: ARG001 - every scorer's signature
    """Returns the verdict of no code: wrong."""
    return {"completion": "", "is_correct": False}


def check(benchmark: Benchmark, data_dir: Path | None) -> None:  # noqa: ARG001 - every scorer's signature
    """Raises ConfigError if TRIMODE_SANDBOX has an unknown value."""
    service_url()
