"""LiveCodeBench answers against their tests, on problems made up here."""

from __future__ import annotations

import base64
import json
import pickle
import zlib
from pathlib import Path
from typing import Any

import pytest
from trimode.core.errors import ConfigError
from trimode.pipeline.benchmarks import load_benchmark
from trimode.pipeline.scoring.code.livecodebench import check, score, test_cases
from trimode.tests.goldens import HEADS, rows

pytestmark = pytest.mark.process

SUMS_AFTER_THE_LIMIT = """
a, b = map(int, input().split())
try:
    {}
except BaseException:
    pass
print(a + b)
""".strip()
BENCHMARK = load_benchmark("livecodebench")


def problem(question_id: str, tests: list[tuple[str, str]], function: str | None = None) -> dict[str, Any]:
    cases = [{"input": given, "output": wanted, "testtype": "stdin"} for given, wanted in tests]
    packed = base64.b64encode(zlib.compress(pickle.dumps(json.dumps(cases[1:])))).decode()
    return {
        "question_id": question_id,
        "public_test_cases": json.dumps(cases[:1]),
        "private_test_cases": packed,
        "metadata": json.dumps({"func_name": function} if function else {}),
    }


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    problems = [
        problem("add", [("2 3\n", "5\n"), ("10 20\n", "30\n")]),
        problem("total", [("[1, 2]", "3"), ("[]", "0")], "total"),
    ]
    (folder / "livecodebench").mkdir()
    text = "".join(json.dumps(row) + "\n" for row in problems)
    (folder / "livecodebench" / "tests.jsonl").write_text(text)
    return folder


@pytest.mark.parametrize(
    ("task", "code", "right"),
    [
        ("add", "a, b = map(int, input().split())\nprint(a + b)", True),
        ("add", "if __name__ == '__main__':\n    print(sum(map(int, input().split())))", True),
        ("add", "from sys import stdin\nprint(sum(map(int, stdin.read().split())), '.0', sep='')", True),
        ("add", "print(5)", False),
        ("add", "import sys\nprint(sum(map(int, sys.stdin.buffer.read().split())))", False),
        ("add", "print(sum(map(int, open(0).read().split())))", False),
        ("add", "import os\nos._exit(0)", False),
        ("add", "not python", False),
        ("add", "import sys\nprint(sum(map(int, input().split())))\nsys.stdout.close()", False),
        ("add", SUMS_AFTER_THE_LIMIT.format("while True: pass"), False),
        ("add", SUMS_AFTER_THE_LIMIT.format("import time; time.sleep(60)"), False),
        ("add", "import numpy as np\nprint(np.array(input().split(), int).sum())", True),
        ("total", "class Solution:\n    def total(self, x: List[int]) -> int:\n        return sum(x)", True),
        ("total", "class Solution:\n    def total(self, x):\n        return str(sum(x))", False),
        ("total", "class Solution:\n    pass", False),
        (
            "total",
            "class Solution:\n    def total(self, x):\n        import numpy\n        return numpy.sum(x, dtype=int)",
            True,
        ),
    ],
)
def test_verdict(data_dir: Path, task: str, code: str, right: bool) -> None:
    verdict = score(BENCHMARK, {"task_id": task, "generation": f"```python\n{code}\n```"}, data_dir)
    assert verdict == {"completion": code, "question_id": task, "code_list": [code], "graded_list": [right]}


def test_packed_tests_must_be_plain_data() -> None:
    packed = base64.b64encode(zlib.compress(pickle.dumps(Path("/")))).decode()
    with pytest.raises(pickle.UnpicklingError, match="valid: plain data"):
        test_cases(packed)


def test_missing_tests_are_an_error_with_url_and_path(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"huggingface\.co.*code_generation_lite into .*livecodebench"):
        check(BENCHMARK, tmp_path)


test_cases.__test__ = False  # type: ignore[attr-defined]


def test_agrees_with_nemo_skills(tmp_path: Path) -> None:
    folder = tmp_path / "livecodebench" / "code_generation_lite"
    folder.mkdir(parents=True)
    (folder / "tests.jsonl").write_bytes((HEADS / "lcb_eval" / "tests.jsonl").read_bytes())
    for row in rows("lcb_eval/livecodebench/output.jsonl"):
        verdict = score(BENCHMARK, row, tmp_path)
        assert verdict == {key: row[key] for key in verdict}, row["task_id"]
