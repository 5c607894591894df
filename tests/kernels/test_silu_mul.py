"""The gated activation: against float64 at sizes that fit vectors and sizes that do not."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from trimode.kernels.cuda import runtime
from trimode.kernels.silu_mul import cuda, describe, silu_mul
from trimode.tests.kernels.numerics import DTYPES, assert_no_worse, normal


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "outputs"), [(9, 48), (1, 16), (3, 17), (0, 32)])
def test_silu_mul(rows: int, outputs: int, dtype: torch.dtype, lanes: int) -> None:
    x = normal(rows, 2 * outputs, dtype=dtype) * 4
    if rows > 1:
        x[0, :6] = torch.tensor([0.0, -1e4, 1e4, -89, 89, -0.0])
    gate, up = x.double().chunk(2, dim=-1)
    plain_gate, plain_up = x.chunk(2, dim=-1)
    assert describe(x).startswith("cpu") == (lanes > 0 and outputs % lanes == 0)
    assert_no_worse(silu_mul(x), F.silu(plain_gate) * plain_up, gate * gate.sigmoid() * up)


@pytest.mark.filterwarnings("ignore:overflow encountered in exp")
@pytest.mark.parametrize("dtype", [*DTYPES, torch.float16])
@pytest.mark.parametrize(("rows", "outputs"), [(9, 48), (1, 16), (3, 17), (0, 32), (2, 1), (2, 1100)])
def test_on_a_gpu(rows: int, outputs: int, dtype: torch.dtype, gpu: torch.device) -> None:
    x = normal(rows, 2 * outputs, dtype=dtype).to(gpu) * 4
    if outputs == 48:
        x[0, :6] = torch.tensor([0.0, -1e4, 1e4, -89, 89, -0.0])
    gate, up = x.double().chunk(2, dim=-1)
    plain_gate, plain_up = x.chunk(2, dim=-1)
    assert describe(x) == f"cuda, sm_{runtime.capability(gpu)}"
    assert_no_worse(silu_mul(x), F.silu(plain_gate) * plain_up, gate * gate.sigmoid() * up)


def test_rows_of_a_wider_tensor_on_a_gpu(gpu: torch.device) -> None:
    x = normal(5, 70).to(gpu)
    assert torch.equal(silu_mul(x[:, :34]), silu_mul(x[:, :34].contiguous()))
    assert cuda.supports(x[:, ::2]) == "columns are not contiguous"


@pytest.mark.usefixtures("vector_lanes", "threads")
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_does_not_depend_on_the_others(dtype: torch.dtype) -> None:
    x = normal(9, 96, dtype=dtype)
    assert torch.equal(silu_mul(x[4:5]), silu_mul(x)[4:5])


@pytest.mark.usefixtures("lanes")
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_not_finite(dtype: torch.dtype) -> None:
    check_what_is_not_finite(dtype, torch.device("cpu"))


@pytest.mark.filterwarnings("ignore:overflow encountered in exp", "ignore:invalid value")
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_not_finite_on_a_gpu(dtype: torch.dtype, gpu: torch.device) -> None:
    check_what_is_not_finite(dtype, gpu)


def check_what_is_not_finite(dtype: torch.dtype, device: torch.device) -> None:
    x = torch.ones(3, 32, dtype=dtype, device=device)
    x[0, 0], x[1, 0], x[2, :2] = math.nan, -math.inf, torch.tensor([-1e38, -3e38])
    got = silu_mul(x)
    assert got[0, 0].isnan()
    assert got[1, 0].isnan()
    assert got[2, :2].tolist() == [0.0, 0.0]


@pytest.mark.usefixtures("lanes")
@pytest.mark.parametrize("x", [torch.zeros(4), torch.zeros(2, 5), torch.zeros(2, 4, dtype=torch.int32)])
def test_what_does_not_fit_is_named(x: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"silu_mul: got .* expected float \[T, J\] with J even"):
        silu_mul(x)
