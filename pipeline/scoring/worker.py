"""A scoring process: reads rows as JSON lines on stdin and writes one verdict per row as a JSON line on stdout.

The benchmark is the first argument, as JSON. The address space is limited, so that a formula whose evaluation explodes
ends this process and not the machine.
"""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import signal
import sys
import time
from pathlib import Path

from trimode.core.processes import serve_job
from trimode.core.protocol import NEVER_SCORED, Row
from trimode.pipeline.benchmarks import Benchmark
from trimode.pipeline.scoring.registry import score_row, scorer_of, unscored
from trimode.pipeline.scoring.time_limits import count_cpu_seconds

MEMORY_BYTES = 8 << 30
"""Largest address space of a scoring process. Beyond it a row fails with MemoryError."""

JUDGE_AGAIN = "_judge_again"
"""Key of a verdict that another try may change. It never reaches a row."""
ROW_ERRORS = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError)
"""What a scorer raises for a row with missing or odd fields: every time, however idle the machine is."""


def arguments(benchmark: Benchmark, data_dir: Path | None) -> list[str]:
    """Returns the command line arguments for `main`."""
    return [json.dumps(dataclasses.asdict(benchmark)), "" if data_dir is None else str(data_dir)]


def judge(benchmark: Benchmark, row: Row, data_dir: Path | None) -> Row:
    """Returns the verdict of one row. Whatever the scorer raises becomes the row's `scoring_error`.

    The verdict has the key JUDGE_AGAIN if the scorer did not fail because of the row's fields: no memory, no process, a
    program that got too little of the processor.
    """
    started = time.monotonic()
    try:
        verdict = score_row(benchmark, row, data_dir)
    except (Exception, MemoryError, RecursionError) as error:  # noqa: BLE001 - the boundary "one row in a scorer"
        reason = f"{type(error).__name__}: {error}"
        if isinstance(error, ROW_ERRORS):
            return unscored(benchmark, row, f"{NEVER_SCORED}: {reason}")
        return unscored(benchmark, row, reason) | {JUDGE_AGAIN: True}
    if "interleaved_eval_single_time_s" in scorer_of(benchmark).VERDICT_KEYS:
        verdict["interleaved_eval_single_time_s"] = time.monotonic() - started
    return verdict


def main() -> None:
    """Scores rows until stdin ends. Sends what scorers or answers print to stderr, away from the verdicts."""
    facts = json.loads(sys.argv[1])
    benchmark = Benchmark(**{**facts, "clients": tuple(facts["clients"])})
    data_dir = Path(sys.argv[2]) if sys.argv[2] else None
    serve_job()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    count_cpu_seconds()
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    bound = MEMORY_BYTES if hard == resource.RLIM_INFINITY else min(MEMORY_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_AS, (bound, hard))
    verdicts = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    scorer_of(benchmark)
    for line in sys.stdin:
        verdicts.write(json.dumps(judge(benchmark, json.loads(line), data_dir)) + "\n")
        verdicts.flush()


if __name__ == "__main__":
    main()
