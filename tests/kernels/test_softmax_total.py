"""The maximum and the denominator of a softmax: against float64, and a row alone to the bit."""

from __future__ import annotations

import math

import pytest
import torch
from trimode.kernels.softmax_total import describe, softmax_total
from trimode.tests.kernels.numerics import normal


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("width", [1, 16, 17, 31, 944, 40001])
def test_peak_and_total(width: int, lanes: int) -> None:
    logits = normal(5, width + 3)[:, :width] * 6
    logits[1, 1:] = -1e4
    assert describe(logits).startswith("cpu") == (0 < lanes <= width)
    peak, total = softmax_total(logits)
    assert torch.equal(peak, logits.amax(dim=-1))
    exact = (logits.double() - logits.double().amax(dim=-1, keepdim=True)).exp().sum(dim=-1)
    assert ((total - exact).abs() / exact).max() <= 1e-6


@pytest.mark.usefixtures("lanes")
def test_nan_makes_the_total_of_its_row_nan() -> None:
    logits = normal(3, 37)
    logits[1, -1] = math.nan
    total = softmax_total(logits)[1]
    assert total.isnan().tolist() == [False, True, False]


@pytest.mark.usefixtures("vector_lanes", "threads")
def test_a_row_does_not_depend_on_the_others() -> None:
    logits = normal(5, 40001) * 6
    peak, total = softmax_total(logits)
    alone = softmax_total(logits[3:4])
    assert torch.equal(torch.stack(alone), torch.stack((peak[3:4], total[3:4])))


@pytest.mark.usefixtures("lanes")
@pytest.mark.parametrize("logits", [torch.zeros(5), torch.zeros(2, 0), torch.zeros(2, 3, dtype=torch.bfloat16)])
def test_what_does_not_fit_is_named(logits: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"softmax_total: got .* expected float32 \[R, V\]"):
        softmax_total(logits)
