"""Random inputs, and the error bound that every kernel keeps."""

from __future__ import annotations

import torch

DTYPES = [torch.bfloat16, torch.float32]


def normal(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    """The same numbers for the same shape and seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def assert_no_worse(got: torch.Tensor, plain: torch.Tensor, exact: torch.Tensor) -> None:
    """The error of `got` is at most twice that of plain torch in the same dtype; both have all values.

    In float32 on a GPU it is at most four times that: cuBLAS sums in parts, whose errors add up to less than those of
    one long sum.
    """
    assert got.dtype == plain.dtype
    assert got.shape == plain.shape == exact.shape
    assert got.isfinite().all()
    times = 4 if got.is_cuda and got.dtype == torch.float32 else 2
    ours, theirs = float((got - exact).abs().sum()), float((plain - exact).abs().sum())
    assert ours <= times * theirs + 1e-9, f"the error is {ours:.3g}, that of plain torch {theirs:.3g}"
