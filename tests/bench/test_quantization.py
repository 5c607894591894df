"""The comparison of quantised weights runs from end to end, and counts what it says."""

from __future__ import annotations

import pytest
import torch
from trimode.bench import quantization
from trimode.bench.quantization import BENCHMARKS, COLUMNS, MODEL, Answered, Totals, divergence, measure
from trimode.tests.fakes.worker import cost, generation


def answered(*tokens: int, right: bool = True, logprob: float = -1.0) -> Answered:
    made = generation(
        token_ids=list(tokens),
        logprobs=[logprob] * len(tokens),
        cost=cost(completion_tokens=len(tokens), nfe=2, acceptance_lengths=[3, 1]),
    )
    return Answered(made, right)


def test_a_line_of_the_table() -> None:
    totals = Totals()
    for name in BENCHMARKS:
        totals.add(name, answered(1, 2, 3, 4), answered(1, 2, 3, 4))
    totals.add("demo-if", answered(1, 2, 9, 4, 5, 6, right=False, logprob=-1.5), answered(1, 2, 3))
    totals.add("demo-if", answered(1, 2), answered(1, 2, 3))
    cells = dict(zip(COLUMNS, totals.line("fp8", "dlm").strip("| ").split(" | "), strict=True))
    assert (cells["mode"], cells["weights"]) == ("dlm", "fp8")
    assert [cells[name] for name in ("math %", "if %", "mean %")] == ["100.0", "66.7", "93.3"]
    assert cells["same as bf16 %"] == f"{100 * 5 / 7:.1f}"
    assert cells["first difference"] == "2.0"
    assert cells["log-prob shift"] == f"{2 * 0.5 / 24:.4f}"  # of 24 tokens that answers have in common
    assert (cells["tokens"], cells["TPF"], cells["accepted"]) == ("4.0", "2.00", "2.00")


def test_divergence_is_that_of_the_plain_distribution() -> None:
    plain, other = torch.tensor([[0.0, 0.0], [5.0, 0.0]]), torch.tensor([[0.0, 1.0], [5.0, 0.0]])
    kl, same = divergence(other, plain)
    shares = other[0].softmax(0)
    assert kl == pytest.approx(float(sum(0.5 * (0.5 / share).log() for share in shares)) / 2, rel=1e-5)
    assert same == 50.0
    assert divergence(plain, plain) == (0.0, 100.0)


@pytest.mark.slow
@pytest.mark.process
def test_the_whole_comparison(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        quantization, "MODES", {name: quantization.MODES[name] for name in ("ar", "linear_spec + LoRA")}
    )
    monkeypatch.setattr(
        quantization, "SCHEMES", {name: quantization.SCHEMES[name] for name in ("bf16", "w4a16 + head")}
    )
    measure(MODEL, 1, list(quantization.MODES))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("5 problems, ")
    table = [line.strip("| ").split(" | ") for line in lines if line.startswith(("| ar", "| linear"))]
    assert [row[:2] for row in table] == [
        ["ar", "bf16"],
        ["ar", "w4a16 + head"],
        ["linear_spec + LoRA", "bf16"],
        ["linear_spec + LoRA", "w4a16 + head"],
    ]
    for row in table[::2]:
        assert row[8:11] == ["100.0", "-", "0.0000"]
    sizes = [line.strip("| ").split(" | ") for line in lines if line.startswith(("| bf16", "| w4a16"))]
    assert sizes[0][2:] == ["100.0%", "0.00000", "100.00"]
    assert 0 < float(sizes[1][3]) < 1
    assert float(sizes[1][2].rstrip("%")) < 40
