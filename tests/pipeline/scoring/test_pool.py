"""Scoring processes that hang, crash, leave or talk nonsense cost their row and nothing else."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Never

import pytest
from trimode.core.protocol import NEVER_SCORED
from trimode.pipeline.benchmarks import Benchmark, load_benchmark
from trimode.pipeline.scoring import ScoringPool, pool
from trimode.pipeline.scoring.answers import choice
from trimode.pipeline.scoring.sandbox import protection
from trimode.pipeline.scoring.worker import JUDGE_AGAIN
from trimode.tests.fakes import scoring_worker as fake_worker

pytestmark = pytest.mark.process

MCQ = load_benchmark("demo-mcq")
MATH = load_benchmark("demo-math")
NO_ANSWER = {"predicted_answer": None, "symbolic_correct": False}


@pytest.fixture
def misbehaving(monkeypatch: pytest.MonkeyPatch) -> Benchmark:
    monkeypatch.setattr(pool, "WORKER_MODULE", fake_worker.__name__)
    monkeypatch.setattr(pool, "START_LIMIT_S", 2.0)
    monkeypatch.setattr(choice, "ROW_LIMIT_S", 2.0)
    return MCQ


def test_rows_are_scored_by_other_processes() -> None:
    rows = [{"generation": rf"\boxed{{{n}}}", "expected_answer": "1"} for n in range(4)]
    with ScoringPool(MATH, None, 2) as scorers:
        verdicts = [future.result() for future in [scorers.submit(row) for row in rows]]
    assert [verdict["symbolic_correct"] for verdict in verdicts] == [False, True, False, False]
    assert all(verdict["interleaved_eval_single_time_s"] > 0 for verdict in verdicts)


def test_a_row_the_scorer_cannot_judge_is_marked() -> None:
    with ScoringPool(MATH, None, 1) as scorers:
        bad, good = scorers.submit({"generation": "4"}), scorers.submit({"generation": "4", "expected_answer": "4"})
        assert bad.result() == {**NO_ANSWER, "scoring_error": f"{NEVER_SCORED}: KeyError: 'expected_answer'"}
        assert "scoring_error" not in good.result()


@pytest.mark.parametrize(
    ("do", "reason"),
    [
        ("hang", "scoring took longer than 2 s"),
        ("exit", "the scoring process ended: exit status 7, last words"),
        ("kill", "the scoring process ended: exit status -9"),
        ("garbage", "the scoring process ended: Expecting value: line 1 column 1 (char 0)"),
    ],
)
def test_a_process_that_fails_costs_one_row(misbehaving: Benchmark, do: str, reason: str) -> None:
    with ScoringPool(misbehaving, None, 1) as scorers:
        before, bad, after = [scorers.submit({"do": what}).result() for what in ("", do, "")]
    assert bad == {**NO_ANSWER, "scoring_error": reason}
    assert before["symbolic_correct"]
    assert after["symbolic_correct"]


def test_no_process_is_left(misbehaving: Benchmark) -> None:
    with ScoringPool(misbehaving, None, 2) as scorers:
        pids = {future.result()["pid"] for future in [scorers.submit({}) for _ in range(6)]}
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert os.getpid() not in pids


def test_close_waits_for_every_row() -> None:
    scorers = ScoringPool(MCQ, None, 1)
    scorers.open()
    futures = [scorers.submit({"generation": "Answer: A", "expected_answer": letter}) for letter in "AB"]
    scorers.close()
    assert all(future.done() for future in futures)
    assert [future.result()["symbolic_correct"] for future in futures] == [True, False]


def test_abandon_drops_the_rows_that_wait_and_does_not_wait_itself(misbehaving: Benchmark) -> None:
    scorers = ScoringPool(misbehaving, None, 1)
    scorers.open()
    running, waiting = scorers.submit({"do": "hang"}), scorers.submit({})
    while not running.running():
        time.sleep(0.01)
    scorers.abandon()
    assert waiting.cancelled()
    assert not running.done()
    assert "scoring_error" in running.result()


def test_an_error_in_the_block_abandons(misbehaving: Benchmark) -> Never:
    with pytest.raises(RuntimeError), ScoringPool(misbehaving, None, 1) as scorers:
        first = scorers.submit({"do": "hang"})
        waiting = scorers.submit({})
        while not first.running():
            time.sleep(0.01)
        raise RuntimeError
    assert waiting.cancelled()
    assert "scoring_error" in first.result()


def test_a_process_that_fails_once_is_asked_again(misbehaving: Benchmark, tmp_path: Path) -> None:
    with ScoringPool(misbehaving, None, 1) as scorers:
        for do in ("hang", "exit", "kill", "garbage"):
            verdict = scorers.submit({"do": do, "once": str(tmp_path / do)}).result()
            assert verdict["symbolic_correct"], do
            assert "scoring_error" not in verdict


def test_a_verdict_that_the_machine_may_have_decided_is_made_again_alone(
    misbehaving: Benchmark, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with ScoringPool(misbehaving, None, 3) as scorers:
        rows = [{"do": "wait", "log": str(log)} for _ in range(6)]
        rows.insert(2, {"do": "late", "once": str(tmp_path / "late"), "log": str(log)})
        verdicts = [future.result() for future in [scorers.submit(row) for row in rows]]
    assert all(verdict["symbolic_correct"] for verdict in verdicts)
    assert not any(JUDGE_AGAIN in verdict for verdict in verdicts)
    lines = log.read_text().split()
    alone = [index for index, line in enumerate(lines) if line == "begin:late"][1]
    assert lines[alone + 1] == "end:late"
    running = lines[:alone].count("begin:wait") - lines[:alone].count("end:wait")
    assert running == 0


def test_the_second_verdict_stands(misbehaving: Benchmark) -> None:
    with ScoringPool(misbehaving, None, 1) as scorers:
        verdict = scorers.submit({"do": "late"}).result()
    assert {key: value for key, value in verdict.items() if key != "pid"} == NO_ANSWER


def test_a_row_that_no_scorer_can_even_refuse_ends_in_an_error_and_not_in_waiting(
    misbehaving: Benchmark, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> Never:
        raise KeyError("instruction_id_list")

    monkeypatch.setattr(pool, "unscored", broken)
    with ScoringPool(misbehaving, None, 1) as scorers:
        bad, good = scorers.submit({"do": "exit"}), scorers.submit({})
        with pytest.raises(KeyError):
            bad.result()
        assert good.result()["symbolic_correct"]


def test_a_pool_that_runs_programs_says_how_they_are_kept_in(capsys: pytest.CaptureFixture[str]) -> None:
    protection.announce.cache_clear()
    for benchmark in (MCQ, load_benchmark("demo-code"), load_benchmark("demo-code")):
        with ScoringPool(benchmark, None, 1):
            pass
    assert capsys.readouterr().err.count("programs run here, protection: ") == 1
