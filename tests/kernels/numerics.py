"""Random inputs, and the error bound that every kernel keeps."""

from __future__ import annotations

import torch

DTYPES = [torch.bfloat16, torch.float32]


def normal(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    """The same numbers for the same shape and seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def assert_no_worse(got: torch.Tensor, plain: torch.Tensor, exact: torch.Tensor) -> None:
    """The error of `got` is at most twice that of plain torch in the same dtype; both have all values."""
    assert got.dtype == plain.dtype
    assert got.shape == plain.shape == exact.shape
    assert got.isfinite().all()
    assert (got - exact).abs().sum() <= 2 * (plain - exact).abs().sum() + 1e-9
