"""Packed weights against the plain product: every number of rows, and no second copy."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from trimode.workers.linear import add_linear, linear, pack_weight

ROWS = range(65)


@pytest.mark.parametrize("shape", [(96, 64), (72, 48), (33, 40)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_linear_equals_the_plain_product(shape: tuple[int, int], dtype: torch.dtype) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    packed = pack_weight(weight)
    for rows in ROWS:
        x = torch.randn(rows, shape[1], generator=torch.Generator().manual_seed(rows)).to(dtype)
        exact = x.double() @ weight.double().T
        error = (linear(x, packed) - exact).abs().sum()
        plain = (F.linear(x, weight) - exact).abs().sum()
        assert error <= 1.01 * plain, rows


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_add_linear_is_no_less_exact_than_adding_afterwards(dtype: torch.dtype) -> None:
    weight = torch.randn(72, 48, generator=torch.Generator().manual_seed(0)).to(dtype)
    packed = pack_weight(weight)
    for rows in ROWS:
        chance = torch.Generator().manual_seed(rows)
        x, residual = (
            torch.randn(rows, 48, generator=chance).to(dtype),
            torch.randn(rows, 72, generator=chance).to(dtype),
        )
        before = residual.clone()
        exact = residual.double() + x.double() @ weight.double().T
        error = (add_linear(residual, x, packed) - exact).abs().sum()
        plain = (residual + F.linear(x, weight) - exact).abs().sum()
        assert error <= 1.01 * plain, rows
        assert torch.equal(residual, before)


@pytest.mark.parametrize("faster", [True, False])
def test_many_rows_by_either_way(faster: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trimode.workers.linear.float32_is_faster", lambda: faster)
    chance = torch.Generator().manual_seed(0)
    x, weight, residual = (torch.randn(size, generator=chance).bfloat16() for size in ((700, 48), (72, 48), (700, 72)))
    exact = x.double() @ weight.double().T
    plain = (F.linear(x, weight) - exact).abs().sum()
    assert (linear(x, pack_weight(weight)) - exact).abs().sum() <= 1.01 * plain
    added = (add_linear(residual, x, pack_weight(weight)) - exact - residual.double()).abs().sum()
    assert added <= 1.01 * (residual + F.linear(x, weight) - exact - residual.double()).abs().sum()


def test_float32_keeps_its_weight() -> None:
    weight = torch.zeros(8, 8)
    assert pack_weight(weight) is weight


def test_rows_of_a_wider_tensor() -> None:
    weight = torch.randn(96, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    wide = torch.randn(5, 128, generator=torch.Generator().manual_seed(1)).bfloat16()
    assert torch.equal(linear(wide[:, :64], pack_weight(weight)), F.linear(wide[:, :64], weight))
