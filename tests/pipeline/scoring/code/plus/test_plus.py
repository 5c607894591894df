"""HumanEval+ and MBPP+ answers on problems made up here, and on the real ones where they are at hand."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from trimode.core.errors import ConfigError
from trimode.pipeline.benchmarks import Benchmark, load_benchmark
from trimode.pipeline.scoring.code.plus import check, no_answer, problems, score
from trimode.tests.goldens import DATA, FULL, needs_full, rows

pytestmark = pytest.mark.process

HUMAN_EVAL, MBPP = load_benchmark("human-eval"), load_benchmark("mbpp")
HEAVY = {f"HumanEval/{number}" for number in (14, 15, 36, 59, 83, 94, 100, 130, 139)}
"""Problems whose reference solution takes seconds."""


def problem(task_id: str, entry_point: str, body: str, base: list[Any], plus: list[Any]) -> dict[str, Any]:
    prompt = f'def {entry_point}(x):\n    """One of the made-up problems."""\n'
    return {
        "task_id": task_id,
        "prompt": prompt,
        "canonical_solution": f"    {body}\n",
        "entry_point": entry_point,
        "base_input": base,
        "plus_input": plus,
        "atol": 0,
    }


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRIMODE_CACHE", str(tmp_path / "cache"))
    for variable in ("HUMANEVAL_OVERRIDE_PATH", "MBPP_OVERRIDE_PATH"):
        monkeypatch.delenv(variable, raising=False)
    sets = {
        ("human-eval", "HumanEvalPlus-v0.1.9.jsonl.gz"): [
            problem("HumanEval/0", "double", "return 2 * x", [[1], [2]], [[-5]]),
            problem("HumanEval/1", "half", "return x / 2", [[1]], [[3]]),
        ],
        ("mbpp", "MbppPlus-v0.2.0.jsonl.gz"): [
            problem("Mbpp/2", "similar_elements", "return tuple(x)", [[[1, 2]]], [[[3]]]),
            problem("Mbpp/400", "kinds", "return [type(item).__name__ for item in x]", [[[[1, 2]]]], []),
            problem("Mbpp/9", "check_str", "return x or None", [["a"], [""]], []),
        ],
    }
    for (name, file), content in sets.items():
        (tmp_path / name).mkdir()
        with gzip.open(tmp_path / name / file, "wt") as stream:
            stream.writelines(json.dumps(row) + "\n" for row in content)
    return tmp_path


def verdict(benchmark: Benchmark, task_id: str, code: str, data_dir: Path) -> tuple[bool, bool]:
    result = score(benchmark, {"task_id": task_id, "generation": f"```python\n{code}\n```"}, data_dir)
    assert result["completion"] == code
    return result["is_correct"], result["is_correct-plus"]


@pytest.mark.parametrize(
    ("code", "base_and_plus"),
    [
        ("def double(x):\n    return x + x", (True, True)),
        ("def double(x):\n    return abs(x + x)", (True, False)),
        ("def double(x):\n    return float(x + x)", (True, True)),
        ("def double(x):\n    return x", (False, False)),
        ("return 2 * x", (False, False)),
        ("def double(x):\n    print('noise')\n    return 2 * x", (True, True)),
        ("def double(x):\n    input()\n    return 2 * x", (False, False)),
        ("def double(x):\n    open('a', 'w')\n    return 2 * x", (False, False)),
        ("import os\nos._exit(0)", (False, False)),
        ("raise SystemExit", (False, False)),
        ("def double(x):\n    while True: pass", (False, False)),
        ("", (False, False)),
    ],
)
def test_verdict(data_dir: Path, code: str, base_and_plus: tuple[bool, bool]) -> None:
    assert verdict(HUMAN_EVAL, "HumanEval/0", code, data_dir) == base_and_plus


def test_floats_are_compared_with_a_tolerance(data_dir: Path) -> None:
    assert verdict(HUMAN_EVAL, "HumanEval/1", "def half(x):\n    return x / 2 + 1e-9", data_dir) == (True, True)
    assert verdict(HUMAN_EVAL, "HumanEval/1", "def half(x):\n    return x / 2 + 1e-3", data_dir) == (False, False)


@pytest.mark.parametrize(
    ("task_id", "code", "right"),
    [
        ("Mbpp/2", "def similar_elements(x):\n    return list(x)[::-1]", True),
        ("Mbpp/2", "def similar_elements(x):\n    return list(x)[1:]", False),
        ("Mbpp/400", "def kinds(x):\n    return [type(y).__name__ for y in x if y[1]]", True),
        ("Mbpp/9", "def check_str(x):\n    return 'match' if x else None", True),
        ("Mbpp/9", "def check_str(x):\n    return 'match'", False),
    ],
)
def test_mbpp_has_rules_and_types_of_its_own(data_dir: Path, task_id: str, code: str, right: bool) -> None:
    assert verdict(MBPP, task_id, code, data_dir) == (right, right)


def test_the_oracle_is_computed_once(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "def double(x):\n    return 2 * x"
    assert verdict(HUMAN_EVAL, "HumanEval/0", code, data_dir) == (True, True)
    monkeypatch.setattr(problems, "compute_oracle", None)
    assert verdict(HUMAN_EVAL, "HumanEval/0", code, data_dir) == (True, True)


def test_an_override_file_is_taken_instead(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "cut.jsonl"
    path.write_text(json.dumps(problem("HumanEval/7", "same", "return x", [[1]], [])) + "\n")
    monkeypatch.setenv("HUMANEVAL_OVERRIDE_PATH", str(path))
    assert verdict(HUMAN_EVAL, "HumanEval/7", "def same(x): return x", data_dir) == (True, True)


def test_no_answer_is_wrong() -> None:
    expected = {"completion": "", "is_correct": False, "is_correct-plus": False}
    assert no_answer(HUMAN_EVAL, {}) == score(HUMAN_EVAL, {"generation": None}, None) == expected


def test_a_missing_dataset_is_an_error_with_url_and_path(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"prepare mbpp.*https://.*MbppPlus.jsonl.gz at .*MbppPlus-v0.2.0.jsonl.gz"):
        check(MBPP, tmp_path)


def test_a_damaged_dataset_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "mbpp").mkdir()
    (tmp_path / "mbpp" / "MbppPlus-v0.2.0.jsonl.gz").write_bytes(b"torn")
    with pytest.raises(ConfigError, match="is not a HumanEval\\+ or MBPP\\+ file"):
        check(MBPP, tmp_path)


@needs_full
def test_agrees_with_nemo_skills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIMODE_CACHE", str(tmp_path))
    light = [row for row in rows("code_eval/human-eval/output.jsonl", FULL) if row["task_id"] not in HEAVY]
    for row in light[::5]:
        result = score(HUMAN_EVAL, row, DATA)
        assert result == {key: row[key] for key in result}, row["task_id"]
