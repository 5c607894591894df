"""The benchmark of compact weights runs from end to end; its numbers mean nothing here."""

from __future__ import annotations

from pathlib import Path

import pytest
from trimode.bench import packed_weights, products
from trimode.bench.random_checkpoint import TINY_SHAPE
from trimode.kernels.linear import compact

pytestmark = pytest.mark.skipif(compact.missing() is not None, reason="no CPU with AVX512-BF16 and AVX512-VBMI")


def test_every_kind_has_a_time(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(products, "BENCH_SHAPE", products.BENCH_SHAPE | {"hidden_size": 64, "vocab_size": 256})
    monkeypatch.setattr(packed_weights, "ROWS", (1, 3))
    monkeypatch.setattr(packed_weights, "STEPS", (1, 2))
    monkeypatch.setattr(packed_weights, "RIVAL_OF", dict.fromkeys(packed_weights.KINDS, "llama.cpp"))
    monkeypatch.setattr("trimode.bench.rivals.find_spec", lambda _: None)
    packed_weights.compare_products(1, 1)
    packed_weights.compare_steps(TINY_SHAPE, 0.05, 1, tmp_path)
    lines = capsys.readouterr().out.splitlines()
    cells = [line.strip("| ").split(" | ") for line in lines if line.startswith("|")]
    assert [row[0] for row in cells if row[0] in ("1", "3")][:2] == ["1", "3"]
    assert [tuple(row[:2]) for row in cells if len(row) == 6][1:] == [
        (tokens, kind) for tokens in ("1", "2") for kind in packed_weights.KINDS
    ]
