"""RMSNorm: against float64 at sizes that fit vectors and sizes that do not."""

from __future__ import annotations

import pytest
import torch
from trimode.kernels.cuda import runtime
from trimode.kernels.rms_norm import cuda, describe, reference, rms_norm
from trimode.tests.kernels.numerics import DTYPES, assert_no_worse, normal


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "hidden"), [(7, 80), (1, 16), (3, 17), (0, 32)])
def test_rms_norm(rows: int, hidden: int, dtype: torch.dtype, lanes: int) -> None:
    x, weight = normal(rows, hidden, dtype=dtype) * 3, normal(hidden, dtype=dtype, seed=1)
    wide = x.double()
    exact = wide / (wide.pow(2).mean(-1, keepdim=True) + 0.5).sqrt() * weight.double()
    normed = x.float() * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + 0.5)
    assert describe(x, weight).startswith("cpu") == (lanes > 0 and hidden % lanes == 0)
    assert_no_worse(rms_norm(x, weight, 0.5), normed.to(dtype) * weight, exact)


@pytest.mark.usefixtures("vector_lanes", "threads")
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_does_not_depend_on_the_others(dtype: torch.dtype) -> None:
    x, weight = normal(7, 80, dtype=dtype), normal(80, dtype=dtype, seed=1)
    assert torch.equal(rms_norm(x[3:4], weight, 0.5), rms_norm(x, weight, 0.5)[3:4])


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float16])
@pytest.mark.parametrize(("rows", "hidden"), [(7, 80), (1, 16), (3, 17), (0, 32), (2, 1)])
def test_on_a_gpu(rows: int, hidden: int, dtype: torch.dtype, gpu: torch.device) -> None:
    x, weight = normal(rows, hidden, dtype=dtype).to(gpu) * 3, normal(hidden, dtype=dtype, seed=1).to(gpu)
    wide = x.double()
    exact = wide / (wide.pow(2).mean(-1, keepdim=True) + 0.5).sqrt() * weight.double()
    assert describe(x, weight) == f"cuda, sm_{runtime.capability(gpu)}"
    assert_no_worse(rms_norm(x, weight, 0.5), reference.rms_norm(x, weight, 0.5), exact)


def test_rows_of_a_wider_tensor_on_a_gpu(gpu: torch.device) -> None:
    x, weight = normal(5, 64).to(gpu), normal(32, seed=1).to(gpu)
    assert torch.equal(rms_norm(x[:, :32], weight, 0.5), rms_norm(x[:, :32].contiguous(), weight, 0.5))
    assert cuda.supports(x[:, ::2], weight) == "columns are not contiguous"


@pytest.mark.usefixtures("lanes")
def test_rows_of_a_wider_tensor() -> None:
    x, weight = normal(5, 64), normal(32, seed=1)
    assert torch.allclose(rms_norm(x[:, :32], weight, 0.5), rms_norm(x[:, :32].contiguous(), weight, 0.5))


@pytest.mark.usefixtures("lanes")
@pytest.mark.parametrize(
    ("x", "weight"),
    [
        (torch.zeros(2, 16), torch.zeros(17)),
        (torch.zeros(16), torch.zeros(16)),
        (torch.zeros(2, 16), torch.zeros(16, dtype=torch.bfloat16)),
    ],
)
def test_what_does_not_fit_is_named(x: torch.Tensor, weight: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"rms_norm: got x .*, weight .*; expected \[T, H\] and \[H\] of one dtype"):
        rms_norm(x, weight, 1e-5)
