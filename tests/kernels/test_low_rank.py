"""The low-rank product: against float64 at odd sizes and ranks, only in the rows that are on."""

from __future__ import annotations

import math

import pytest
import torch
from trimode.kernels.cuda import runtime
from trimode.kernels.low_rank import add_low_rank, cuda, describe, is_fused, reference
from trimode.tests.kernels.numerics import DTYPES, assert_no_worse, normal

ON = torch.tensor([0, 1, 0, 0, 1, 1, 0, 1, 1] + [0] * 23 + [1, 0, 0], dtype=torch.int32)
"""The second tile of 16 tokens is off altogether."""


def inputs(rank: int, width: int, outputs: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    shapes = ((len(ON), outputs), (len(ON), width), (rank, width), (outputs, rank))
    y, x, a, b = (normal(*shape, dtype=dtype, seed=seed) for seed, shape in enumerate(shapes))
    y[0] = -0.0  # a sum with zero would change its sign
    y[2] = math.nan
    return y, x, a, b


def check(device: torch.device, tensors: tuple[torch.Tensor, ...]) -> None:
    y, x, a, b = (tensor.to(device) for tensor in tensors)
    on, off = ON.bool().to(device), ~ON.bool().to(device)
    exact = (y.double() + 0.5 * x.double() @ a.double().T @ b.double().T)[on]
    plain = (y + torch.nn.functional.linear(torch.nn.functional.linear(x, a), b) * 0.5)[on]
    got = y.clone()
    add_low_rank(got, x, a, b, 0.5, ON.to(device))
    assert torch.equal(got[off].view(torch.uint8), y[off].view(torch.uint8))
    assert_no_worse(got[on], plain, exact)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_reference(dtype: torch.dtype) -> None:
    check(torch.device("cpu"), inputs(17, 40, 24, dtype))


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float16])
@pytest.mark.parametrize(("rank", "width", "outputs"), [(16, 64, 48), (17, 600, 70), (80, 136, 64), (1, 1, 1)])
def test_on_a_gpu(rank: int, width: int, outputs: int, dtype: torch.dtype, gpu: torch.device) -> None:
    tensors = inputs(rank, width, outputs, dtype)
    a, b = (tensor.to(gpu) for tensor in tensors[2:])
    assert is_fused(a, b)
    assert describe(a, b) == f"cuda, sm_{runtime.capability(gpu)}"
    check(gpu, tensors)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_does_not_depend_on_the_others_on_a_gpu(dtype: torch.dtype, gpu: torch.device) -> None:
    y, x, a, b = (tensor.to(gpu) for tensor in inputs(16, 600, 48, dtype))
    together, alone = y.clone(), y.clone()
    add_low_rank(together, x, a, b, 0.5, ON.to(gpu))
    only = torch.zeros_like(ON)
    only[8] = 1
    x[:8], x[9:] = math.nan, 3.0
    add_low_rank(alone, x, a, b, 0.5, only.to(gpu))
    assert torch.equal(together[8], alone[8])


def test_rows_of_a_wider_tensor_on_a_gpu(gpu: torch.device) -> None:
    y, x, a, b = (tensor.to(gpu) for tensor in inputs(16, 64, 48, torch.float32))
    wide_y, wide_x = torch.cat([y, y], dim=1), torch.cat([x, x], dim=1)
    before = wide_y.clone()
    add_low_rank(wide_y[:, :48], wide_x[:, :64], a, b, 0.5, ON.to(gpu))
    add_low_rank(y, x, a, b, 0.5, ON.to(gpu))
    assert torch.equal(wide_y[:, :48].view(torch.uint8), y.view(torch.uint8))
    assert torch.equal(wide_y[:, 48:].view(torch.uint8), before[:, 48:].view(torch.uint8))


def test_no_token_is_on_and_no_token_at_all(gpu: torch.device) -> None:
    y, x, a, b = (tensor.to(gpu) for tensor in inputs(16, 64, 48, torch.float32))
    before = y.clone()
    add_low_rank(y, x, a, b, 0.5, torch.zeros_like(ON).to(gpu))
    assert torch.equal(y.view(torch.uint8), before.view(torch.uint8))
    add_low_rank(y[:0], x[:0], a, b, 0.5, ON[:0].to(gpu))


def test_what_the_gpu_kernel_refuses_goes_to_the_reference(gpu: torch.device) -> None:
    y, x, a, b = (tensor.to(gpu) for tensor in inputs(16, 64, 48, torch.float32))
    on = ON.to(gpu)
    transposed = a.T.contiguous().T
    assert cuda.supports(y, x, transposed, b, on) == "columns are not contiguous"
    expected = y.clone()
    reference.add_low_rank(expected, x, a, b, 0.5, on)
    add_low_rank(y, x, transposed, b, 0.5, on)
    assert torch.allclose(y, expected, equal_nan=True)
    many = torch.zeros(257, 8, device=gpu)
    assert cuda.supports(y, x, many, many.T.contiguous()) == "rank 257 is above 256"


def test_what_does_not_fit_is_named() -> None:
    y, x, a, b = inputs(16, 64, 48, torch.float32)
    for tensors in (
        (y, x, a, b.T, ON),
        (y, x[:, 1:], a, b, ON),
        (y, x, a.bfloat16(), b, ON),
        (y, x, a, b, ON.long()),
        (y, x, a, b, ON[1:]),
        (y[0], x, a, b, ON),
        (y, x, a.to("meta"), b, ON),
    ):
        with pytest.raises(ValueError, match=r"add_low_rank: got y torch.float32 .* expected \[T, H\], \[T, I\]"):
            add_low_rank(*tensors[:4], 0.5, tensors[4])
