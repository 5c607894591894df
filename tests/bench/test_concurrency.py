"""The measurement of modes at several numbers of requests: what it runs, and what it prints."""

from __future__ import annotations

import sys

import pytest
from trimode.bench import concurrency


def test_prompts_come_from_every_benchmark_in_turn() -> None:
    prompts = concurrency.read_prompts(6)
    texts = [str(prompt["messages"]) for prompt in prompts]
    assert len(texts) == 6 and len(set(texts)) == 6
    assert "Solve this problem" in texts[0] and "Choose one answer" in texts[1] and "Solve this problem" in texts[4]


@pytest.mark.slow
def test_it_prints_every_setting(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["concurrency", *["--concurrent", "1,3", "--requests", "4", "--rounds", "2"]])
    concurrency.main()
    head, _, one, three, tpf = capsys.readouterr().out.splitlines()
    assert [name in head for name in concurrency.SETTINGS] == [True] * 5
    assert one.startswith("| 1 |") and three.startswith("| 3 |") and one.count("x)") == three.count("x)") == 5
    ar, *others = [float(cell) for cell in tpf.split("|")[2:7]]
    assert ar == 1.0 and min(others) > 2.0
