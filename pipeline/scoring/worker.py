"""A scoring process: reads rows as JSON lines on stdin, writes their verdicts as JSON lines, one for one.

Knows one benchmark, given as JSON in its first argument, and nothing of who asks. Its address space is limited, so that
a formula that explodes ends this process and not the machine.
"""

from __future__ import annotations

import ctypes
import dataclasses
import json
import os
import resource
import signal
import sys
import time
from pathlib import Path

from trimode.core.processes import die_with_parent
from trimode.pipeline.benchmarks import Benchmark
from trimode.pipeline.scoring.registry import score_row, scorer_of, unscored
from trimode.pipeline.scoring.scorer import Row

PR_SET_PDEATHSIG = 1
"""Of Linux: end when the thread that started this process ends, however it ends."""
MEMORY_BYTES = 8 << 30
"""Address space of a scoring process."""


def arguments(benchmark: Benchmark, data_dir: Path | None) -> list[str]:
    """Command line arguments that `main` understands."""
    return [json.dumps(dataclasses.asdict(benchmark)), "" if data_dir is None else str(data_dir)]


def judge(benchmark: Benchmark, row: Row, data_dir: Path | None) -> Row:
    """The verdict of one row; whatever a scorer raises marks this row only."""
    started = time.monotonic()
    try:
        verdict = score_row(benchmark, row, data_dir)
    except (Exception, MemoryError, RecursionError) as error:  # noqa: BLE001 - the boundary "one row in a scorer"
        return unscored(benchmark, row, f"{type(error).__name__}: {error}")
    if "interleaved_eval_single_time_s" in scorer_of(benchmark).VERDICT_KEYS:
        verdict["interleaved_eval_single_time_s"] = time.monotonic() - started
    return verdict


def main() -> None:
    """Serves until stdin ends. What scorers or answers print goes to stderr, never among the verdicts."""
    facts = json.loads(sys.argv[1])
    benchmark = Benchmark(**{**facts, "clients": tuple(facts["clients"])})
    data_dir = Path(sys.argv[2]) if sys.argv[2] else None
    die_with_parent(signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
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
