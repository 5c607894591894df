"""LiveCodeBench: runs a reply's code against the public and private tests of its problem.

Finds and reads the dataset's original rows. The rules of one run are in
`livecodebench_guest` and `livecodebench_judge`.
"""

from __future__ import annotations

import base64
import functools
import io
import json
import pickle
import re
import zlib
from pathlib import Path
from typing import Any

from trimode.core.errors import ConfigError
from trimode.core.protocol import Row
from trimode.pipeline.benchmarks import Benchmark
from trimode.pipeline.data.load import data_root
from trimode.pipeline.scoring.code.extract import extract_code
from trimode.pipeline.scoring.sandbox.harness import JudgeLimits, run_judge
from trimode.pipeline.scoring.sandbox.service import service_url
from trimode.pipeline.scoring.scorer import answer_text

VERDICT_KEYS = ("completion", "question_id", "code_list", "graded_list")
ROW_LIMIT_S = 4000.0
TEST_TIMEOUT_S = 6
"""CPU seconds for one test, as NeMo-Skills' evaluator sets it."""
MOST_CPU_S = 1200.0
"""Most CPU seconds for all tests of one problem."""
JUDGE = "trimode.pipeline.scoring.code.livecodebench_judge"
LIMITS = JudgeLimits(wall_s=3900.0)
URL = "https://huggingface.co/datasets/livecodebench/code_generation_lite"
QUESTION_ID = re.compile(rb'"question_id":\s*"([^"]+)"')
TESTS_COLUMN = b'"private_test_cases"'


class _PlainUnpickler(pickle.Unpickler):
    """Reads the private tests, which the dataset packs as a pickled string. Refuses anything but plain data."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:  # noqa: ANN401 - the base class's signature
        raise pickle.UnpicklingError(f"private tests hold {module_name}.{global_name}; valid: plain data")


def test_cases(column: str) -> list[dict[str, str]]:
    """Returns the tests in one column: JSON, or packed JSON (base64, zlib, pickle). Raises ValueError for neither."""
    try:
        return list(json.loads(column)) if column else []
    except json.JSONDecodeError:
        packed = zlib.decompress(base64.b64decode(column))
        return list(json.loads(_PlainUnpickler(io.BytesIO(packed)).load()))


def test_files(data_dir: Path | None) -> list[Path]:
    """Returns the files with the dataset's original columns: the split's prepared file, else the downloaded ones."""
    folder = data_root(data_dir) / "livecodebench"
    prepared = folder / "tests.jsonl"
    if prepared.is_file():
        return [prepared]
    return sorted(folder.glob("code_generation_lite/*.jsonl")) or [
        path for path in folder.glob("*.jsonl") if _has_tests(path)
    ]


def _has_tests(path: Path) -> bool:
    with path.open("rb") as file:
        return TESTS_COLUMN in file.readline()


@functools.cache
def problem_places(data_dir: Path | None) -> dict[str, tuple[Path, int]]:
    """Returns question_id -> (file, byte offset of its line). The files are too large to keep in memory."""
    places = {}
    for path in test_files(data_dir):
        offset = 0
        with path.open("rb") as file:
            for line in file:
                found = QUESTION_ID.search(line)
                if found and TESTS_COLUMN in line:
                    places[found[1].decode()] = (path, offset)
                offset += len(line)
    return places


def read_problem(question_id: str, data_dir: Path | None) -> dict[str, Any]:
    """Returns the original row of one problem. Raises ConfigError if no file has it."""
    if question_id not in problem_places(data_dir):
        files = [str(path) for path in test_files(data_dir)]
        raise ConfigError(f"LiveCodeBench's tests of {question_id!r} are in none of {files}")
    path, offset = problem_places(data_dir)[question_id]
    with path.open("rb") as file:
        file.seek(offset)
        return dict(json.loads(file.readline()))


def passes(code: str, problem: dict[str, Any]) -> bool:
    """True if `code` passes all tests of an original row."""
    tests = test_cases(problem["public_test_cases"]) + test_cases(problem["private_test_cases"])
    answer = {
        "code": code,
        "fn_name": json.loads(problem["metadata"]).get("func_name"),
        "timeout": TEST_TIMEOUT_S,
        "total_cpu_s": min((TEST_TIMEOUT_S + 1.0) * len(tests) + 5, MOST_CPU_S),
    }
    cases = {key: [test[key.removesuffix("s")] for test in tests] for key in ("inputs", "outputs")}
    return bool(run_judge(JUDGE, answer, cases, LIMITS).get("passed"))


def score(benchmark: Benchmark, row: Row, data_dir: Path | None) -> Row:
    """Returns `completion`, `question_id`, `code_list` and `graded_list` of one row with `task_id`."""
    text = answer_text(benchmark, row)
    if text is None:
        return no_answer(benchmark, row)
    code = extract_code(text)
    graded = [passes(code, read_problem(row["task_id"], data_dir))]
    return {"completion": code, "question_id": row["task_id"], "code_list": [code], "graded_list": graded}


def no_answer(benchmark: Benchmark, row: Row) -> Row:  # noqa: ARG001 - every scorer's signature
    """Returns the verdict of no code: wrong."""
    return {"completion": "", "question_id": row.get("task_id"), "code_list": [""], "graded_list": [False]}


def check(benchmark: Benchmark, data_dir: Path | None) -> None:
    """Raises ConfigError if the test files are missing."""
    service_url()
    if not test_files(data_dir):
        folder = data_root(data_dir) / benchmark.name / "code_generation_lite"
        raise ConfigError(
            f"{benchmark.name} is scored with the dataset's tests and none were found; run "
            f"`python -m trimode.pipeline.data prepare {benchmark.name}`, or put the test*.jsonl of {URL} into {folder}"
        )
