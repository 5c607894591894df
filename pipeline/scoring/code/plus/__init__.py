"""HumanEval+ and MBPP+: runs a reply's code on the base and plus inputs of its problem, one problem at a time.

The rules are those of evalplus at the revision NeMo-Skills 0.7.0 pins, not of a release: the releases on the package
index judge some results differently. Needs no package beyond the base installation.
"""

from __future__ import annotations

import base64
from pathlib import Path

from trimode.core.protocol import Row
from trimode.pipeline.benchmarks import Benchmark
from trimode.pipeline.scoring.code.extract import extract_code
from trimode.pipeline.scoring.code.plus.problems import NOT_NONE_TASKS, dataset_path, packed_oracle, read_dataset
from trimode.pipeline.scoring.sandbox.harness import JudgeLimits, run_judge
from trimode.pipeline.scoring.sandbox.service import service_url
from trimode.pipeline.scoring.scorer import answer_text

VERDICT_KEYS = ("completion", "is_correct", "is_correct-plus")
ROW_LIMIT_S = 1900.0
JUDGE = "trimode.pipeline.scoring.code.plus.judge"
CAP_S = 60.0
"""Most CPU seconds for all inputs of one part (base or plus) of a problem."""
MIN_TIME_S = 1.0
"""CPU seconds that each input gets at least."""
TIME_FACTOR = 4.0
"""An input gets this many times what the reference solution took, but at least MIN_TIME_S."""
LIMITS = JudgeLimits(wall_s=1800.0)


def score(benchmark: Benchmark, row: Row, data_dir: Path | None) -> Row:
    """Returns `completion`, `is_correct` (base inputs) and `is_correct-plus` (both) of one row with `task_id`."""
    text = answer_text(benchmark, row)
    if text is None:
        return no_answer(benchmark, row)
    completion = extract_code(text)
    oracle = packed_oracle(benchmark, row["task_id"], data_dir)
    problem = read_dataset(dataset_path(benchmark, data_dir))[1][row["task_id"]]
    answer = {
        "entry_point": problem["entry_point"],
        "code": problem["prompt"] + completion,
        "cap_s": CAP_S,
    }
    tests = {
        "dataset": benchmark.dataset,
        "atol": problem["atol"],
        "oracle": base64.b64encode(oracle).decode(),
        "not_none_tasks": NOT_NONE_TASKS,
        "min_time_s": MIN_TIME_S,
        "time_factor": TIME_FACTOR,
    }
    verdict = run_judge(JUDGE, answer, tests, LIMITS)
    base = bool(verdict.get("base"))
    return {"completion": completion, "is_correct": base, "is_correct-plus": base and bool(verdict.get("plus"))}


def no_answer(benchmark: Benchmark, row: Row) -> Row:  # noqa: ARG001 - every scorer's signature
    """Returns the verdict of no code: wrong."""
    return {"completion": "", "is_correct": False, "is_correct-plus": False}


def check(benchmark: Benchmark, data_dir: Path | None) -> None:
    """Raises ConfigError if the dataset is missing or damaged."""
    service_url()
    read_dataset(dataset_path(benchmark, data_dir))
