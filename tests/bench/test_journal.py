"""The measurement of the journal runs, and prints one part per mode."""

from __future__ import annotations

import sys

import pytest
from trimode.bench import journal


@pytest.mark.slow
def test_it_prints_all_shares(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(
        sys, "argv", ["journal", *["--modes", "ar", "--requests", "2", "--tokens", "8", "--pairs", "2"]]
    )
    monkeypatch.setattr("trimode.workers.journal.journal.LOOK_EVERY_S", 0.0)
    monkeypatch.setattr("trimode.workers.journal.journal.EVERY_S", 0.0)
    journal.main()
    printed = capsys.readouterr().out
    assert printed.count("%") == 5  # one of them in the head
    assert "clock" in printed
