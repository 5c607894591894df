"""The registry: one entry per scorer, choosing a scorer, and the order of a finished row's keys."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from types import ModuleType

import pytest
from trimode.core.errors import ConfigError
from trimode.core.project import PROJECT_DIR
from trimode.pipeline.benchmarks import benchmark_names, load_benchmark
from trimode.pipeline.scoring import check_scorer, finish_rows, score_row
from trimode.pipeline.scoring.metrics import compute_metrics
from trimode.pipeline.scoring.registry import SCORERS, Points, ScorerFacts, scorer_of
from trimode.pipeline.scoring.verdicts import is_right, is_scored, row_points

BENCHMARKS = benchmark_names()
REPLY = {"generation": "g", "num_generated_tokens": 3, "finish_reason": "stop", "serialized_output": []}
TIMES = {"generation_start_time": 1.0, "generation_end_time": 2.0, "generation_time": 1.0}
REPLY_ORDER = ["num_generated_tokens", "finish_reason", "serialized_output", *TIMES, "generation"]


@pytest.fixture
def echo(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new scorer: a module of the package and its entry."""
    module = ModuleType("trimode.pipeline.scoring.echo")
    vars(module).update(
        VERDICT_KEYS=("echoed",),
        ROW_LIMIT_S=1.0,
        score=lambda _benchmark, row, _data_dir: {"echoed": row["generation"] == row["problem"]},
        no_answer=lambda _benchmark, _row: {"echoed": False},
        check=lambda _benchmark, _data_dir: None,
    )
    monkeypatch.setitem(sys.modules, module.__name__, module)
    measures = {"echo_accuracy": lambda row: Points((float(row["echoed"]),), (1.0,))}
    monkeypatch.setitem(SCORERS, "echo", ScorerFacts(module="echo", measures=measures, wrong={"echoed": False}))


@pytest.mark.usefixtures("echo")
def test_a_new_scorer_is_one_module_and_one_entry() -> None:
    benchmark = replace(load_benchmark("gsm8k"), scorer="echo", metric="echo_accuracy")
    check_scorer(benchmark)
    rows = [{"problem": "a", "generation": answer, "num_generated_tokens": 1} for answer in ("a", "b", "a", "aa")]
    rows = [row | score_row(benchmark, row) for row in rows]
    assert [is_right(benchmark, row) for row in rows] == [True, False, True, False]
    assert row_points(benchmark, rows[0]) == Points((1.0,), (1.0,))
    assert is_scored(benchmark, rows[0])
    assert not is_scored(benchmark, {})
    assert compute_metrics(benchmark, [rows])["gsm8k"]["pass@1"]["echo_accuracy"] == 50.0
    assert compute_metrics(benchmark, [rows], max_seq_len=0)["gsm8k"]["pass@1"]["echo_accuracy"] == 0.0


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmarks_metric_is_one_of_its_scorer(name: str) -> None:
    benchmark = load_benchmark(name)
    assert benchmark.scorer == "none" or benchmark.metric in SCORERS[benchmark.scorer].measures


@pytest.mark.parametrize("name", [name for name in BENCHMARKS if load_benchmark(name).scorer in SCORERS])
def test_a_wrong_row_holds_the_verdict_fields_of_its_scorer(name: str) -> None:
    benchmark = load_benchmark(name)
    facts = SCORERS[benchmark.scorer]
    assert set(facts.wrong or {}) <= set(scorer_of(benchmark).VERDICT_KEYS)
    assert facts.wrong is None or not is_right(benchmark, facts.wrong)
    assert facts.right is None or facts.right in facts.measures
    assert {measure for pool in (facts.pooled or {}).values() for measure in pool} <= set(facts.measures)


@pytest.mark.process
def test_metrics_and_verdicts_load_no_scorer() -> None:
    code = (
        "import sys; import trimode.pipeline.scoring.metrics, trimode.pipeline.scoring.verdicts;"
        "from trimode.pipeline.scoring.registry import SCORERS;"
        "modules = {f'trimode.pipeline.scoring.{facts.module}' for facts in SCORERS.values()};"
        "print(sorted((modules | {'sympy', 'math_verify', 'nltk', 'langdetect'}) & set(sys.modules)))"
    )
    environment = {"PYTHONPATH": str(PROJECT_DIR / ".types"), "PATH": "/usr/bin:/bin", "HOME": "/nonexistent"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_failed_request_is_wrong_without_asking_the_scorer() -> None:
    row = {"generation": r"\boxed{4}", "expected_answer": "4", "error": "connection lost"}
    assert score_row(load_benchmark("demo-math"), row) == {"predicted_answer": None, "symbolic_correct": False}


def test_a_benchmark_without_a_scorer_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="livecodebench-cpp has no scorer here"):
        check_scorer(load_benchmark("livecodebench-cpp"))


def test_mathematics_rows_begin_with_the_data() -> None:
    row = {**REPLY, **TIMES, "problem": "p", "expected_answer": "4", "error": None}
    row |= {"symbolic_correct": True, "predicted_answer": "4", "interleaved_eval_single_time_s": 0.1}
    (finished,) = finish_rows(load_benchmark("gsm8k"), [row])
    verdict = ["predicted_answer", "symbolic_correct", "interleaved_eval_single_time_s"]
    assert list(finished) == ["problem", "expected_answer", *REPLY_ORDER, *verdict, "error"]
    assert finished == row


@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        ("mmlu", ["predicted_answer", "symbolic_correct"]),
        ("human-eval", ["completion", "is_correct", "is_correct-plus"]),
        ("livecodebench", ["completion", "question_id", "code_list", "graded_list"]),
    ],
)
def test_other_rows_begin_with_the_reply(name: str, verdict: list[str]) -> None:
    row = {**dict.fromkeys(reversed(verdict)), "task_id": 1, **TIMES, **REPLY}
    (finished,) = finish_rows(load_benchmark(name), [row])
    assert list(finished) == [*REPLY_ORDER, "task_id", *verdict]
