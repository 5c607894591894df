"""The measurement of modes at several numbers of requests: what it runs, and what it prints."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from trimode.bench import concurrency
from trimode.core.protocol import WorkerSettings
from trimode.pipeline.analysis.loads import read_loads
from trimode.workers.runtime import Runtime


def test_prompts_come_from_every_benchmark_in_turn() -> None:
    texts = [str(problem.prompt["messages"]) for problem in concurrency.read_problems(6)]
    assert len(texts) == 6 and len(set(texts)) == 6
    assert "Solve this problem" in texts[0] and "Choose one answer" in texts[2] and "Solve this problem" in texts[5]


@pytest.mark.slow
@pytest.mark.process
def test_it_prints_every_setting_and_leaves_what_the_report_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--concurrent", "1,3", "--requests", "4", "--rounds", "2", "--out", str(tmp_path / "loads")]
    monkeypatch.setattr(sys, "argv", ["concurrency", *flags])
    concurrency.main()
    head, _, one, three, tpf, right, _, every, lossless, where = capsys.readouterr().out.splitlines()
    assert [name in head for name in concurrency.SETTINGS] == [True] * 6
    assert one.startswith("| 1 |") and three.startswith("| 3 |") and one.count("x)") == three.count("x)") == 6
    ar, *others = [float(cell) for cell in tpf.split("|")[2:8]]
    assert ar == 1.0 and min(others[:-1]) > 2.0
    assert " at 1" in every and "dlm" not in lossless
    assert where.endswith(f"trimode.pipeline.report {tmp_path / 'loads'}")
    (sweep,), notes = read_loads(tmp_path)
    assert notes == [] and sweep.problems == 4
    assert [f"{setting.accuracy:.1f}" for setting in sweep.settings] == [cell.strip() for cell in right.split("|")[2:8]]
    assert {tuple(setting.tokens_per_s) for setting in sweep.settings} == {(1, 3)}
    assert sweep.advice.startswith(every)


def test_answers_are_judged() -> None:
    class Half(concurrency.Judge):
        def __call__(self, benchmark: object, number: int, row: object, text: str) -> bool:
            assert benchmark and row and "boxed" in text
            return number == 0

    problems = [problem for problem in concurrency.read_problems(10) if problem.benchmark.name == "demo-math"]
    runtime = Runtime(WorkerSettings(model=str(concurrency.MODEL), device="cpu", max_num_seqs=2, kv_cache_gb=0.02))
    assert concurrency.accuracy(runtime, {"mode": "ar"}, problems, Half()) == 50.0


def test_the_advice_joins_loads_with_one_answer() -> None:
    found = concurrency.advice({1: "dlm 32", 2: "dlm 32", 4: "auto", 8: "ar", 16: "ar"})
    assert found == "The fastest by requests at a time: dlm 32 at 1 to 2, auto at 4, ar at 8 to 16."
