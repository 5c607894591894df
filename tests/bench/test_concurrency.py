"""The measurement of modes at several numbers of requests: what it runs, and what it prints."""

from __future__ import annotations

import sys

import pytest
from trimode.bench import concurrency


def test_prompts_come_from_every_benchmark_in_turn() -> None:
    prompts = concurrency.read_prompts(6)
    texts = [str(prompt["messages"]) for prompt in prompts]
    assert len(texts) == 6 and len(set(texts)) == 6
    assert "Solve this problem" in texts[0] and "Choose one answer" in texts[2] and "Solve this problem" in texts[5]


@pytest.mark.slow
def test_it_prints_every_setting(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["concurrency", *["--concurrent", "1,3", "--requests", "4", "--rounds", "2"]])
    concurrency.main()
    head, _, one, three, tpf, _, every, lossless = capsys.readouterr().out.splitlines()
    assert [name in head for name in concurrency.SETTINGS] == [True] * 6
    assert one.startswith("| 1 |") and three.startswith("| 3 |") and one.count("x)") == three.count("x)") == 6
    ar, *others = [float(cell) for cell in tpf.split("|")[2:8]]
    assert ar == 1.0 and min(others[:-1]) > 2.0
    assert " at 1" in every and "dlm" not in lossless


def test_the_advice_joins_loads_with_one_answer() -> None:
    found = concurrency.advice({1: "dlm 32", 2: "dlm 32", 4: "auto", 8: "ar", 16: "ar"})
    assert found == "The fastest by requests at a time: dlm 32 at 1 to 2, auto at 4, ar at 8 to 16."
