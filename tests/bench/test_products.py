"""The benchmark of products runs from end to end; its numbers mean nothing here."""

from __future__ import annotations

import pytest
from trimode.bench import products


def test_every_side_has_a_time_per_number_of_rows(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "BENCH_SHAPE", products.BENCH_SHAPE | {"hidden_size": 64, "vocab_size": 256})
    products.compare([1, 3], layers=1, repeats=1)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("own: ")
    assert "5 products" in lines[1]
    assert [line.split("|")[1].strip() for line in lines if line.startswith("|")] == ["rows", "---", "1", "3"]
