"""The product with a weight, in every layout: CPU kernel, oneDNN and plain torch."""

from __future__ import annotations

import math

import pytest
import torch
from trimode.kernels import linear
from trimode.kernels.linear import Layout, bf16, onednn
from trimode.tests.kernels.conftest import BF16_KINDS, pretend
from trimode.tests.kernels.numerics import DTYPES, assert_no_worse, normal

CPU_KINDS = {f"cpu, {lanes} lanes of {'bfloat16' if dot else 'float32'}": (lanes, dot) for lanes, dot in BF16_KINDS}


@pytest.fixture(params=[*CPU_KINDS, "onednn", "reference"])
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A machine on which bfloat16 weights of whole vectors get this layout."""
    name = str(request.param)
    has_bf16 = onednn._has_bf16()
    if name == "onednn" and not has_bf16:
        pytest.skip("this CPU has no bfloat16 instructions")
    lanes, bf16_dot = CPU_KINDS.get(name, (0, False))
    pretend(monkeypatch, lanes, bf16_dot=bf16_dot)
    monkeypatch.setattr(onednn, "_has_bf16", lambda: name == "onednn")
    monkeypatch.setattr(onednn, "has_amx", lambda: False)
    return name


def plain(x: torch.Tensor, weight: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
    """Summed in float32 and rounded once."""
    y = x.float() @ weight.float().T
    return (y if residual is None else y + residual.float()).to(x.dtype)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(96, 64), (33, 48), (1, 16), (160, 1056), (64, 240), (33, 40), (5, 7)])
def test_product_and_sum_with_the_residual(shape: tuple[int, int], dtype: torch.dtype, machine: str) -> None:
    weight = normal(*shape, dtype=dtype)
    prepared = linear.prepare(weight.clone())
    twice_rounded = prepared.layout is Layout.PLAIN and dtype == torch.bfloat16
    products, sums = [], []
    for rows in (0, 1, 2, 13, 14, 15, 16, 17, 29, 64, 300):
        x, residual = (normal(rows, width, dtype=dtype, seed=rows) for width in (shape[1], shape[0]))
        exact, before = x.double() @ weight.double().T, residual.clone()
        products.append((linear.apply(x, prepared), plain(x, weight), exact))
        expected = plain(x, weight) + residual if twice_rounded else plain(x, weight, residual)
        sums.append((linear.apply(x, prepared, residual), expected, exact + residual.double()))
        assert torch.equal(residual, before)
    for results in (products, sums):
        assert_no_worse(*(torch.cat(column) for column in zip(*results, strict=True)))
    if dtype == torch.bfloat16 and shape[1] % 16 == 0:
        assert linear.describe(weight).startswith(machine)


@pytest.mark.parametrize("dtype", DTYPES)
def test_only_one_copy_is_kept(dtype: torch.dtype, machine: str) -> None:
    weight = torch.zeros(64, 32, dtype=dtype)
    prepared = linear.prepare(weight)
    assert prepared.nbytes == weight.nbytes
    assert (prepared.weight is weight) == (prepared.layout is Layout.PLAIN)
    assert (prepared.layout is Layout.CPU) == machine.startswith("cpu")


@pytest.mark.usefixtures("machine")
def test_rows_of_a_wider_tensor() -> None:
    weight, wide = normal(96, 64, dtype=torch.bfloat16), normal(5, 128, dtype=torch.bfloat16, seed=1)
    prepared = linear.prepare(weight)
    assert torch.equal(linear.apply(wide[:, :64], prepared), linear.apply(wide[:, :64].contiguous(), prepared))


def test_with_amx_bfloat16_is_multiplied_by_onednn(vector_lanes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "_has_bf16", lambda: True)
    monkeypatch.setattr(onednn, "has_amx", lambda: True)
    assert linear.describe(torch.zeros(1, 64).bfloat16()) == "onednn: this CPU has AMX"
    assert linear.describe(torch.zeros(1, 64)) == f"cpu, {vector_lanes} lanes"


@pytest.mark.usefixtures("vector_lanes", "threads")
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_does_not_depend_on_the_others(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "has_amx", lambda: False)
    prepared, x = linear.prepare(normal(96, 256, dtype=dtype)), normal(1100, 256, dtype=dtype, seed=1)
    together = linear.apply(x, prepared, x[:, :96])
    for rows in (slice(0, 1), slice(7, 9), slice(90, 105), slice(0, 31), slice(500, 1099)):
        assert torch.equal(linear.apply(x[rows], prepared, x[rows, :96]), together[rows])


@pytest.mark.usefixtures("machine")
def test_inputs_that_are_not_finite_spoil_their_row_only() -> None:
    weight, x = normal(32, 64, dtype=torch.bfloat16), normal(5, 64, dtype=torch.bfloat16)
    x[1, 0], x[2, 0] = math.nan, math.inf
    got = linear.apply(x, linear.prepare(weight))
    assert got[1].isnan().all()
    assert not got[2].isfinite().any()
    assert got[[0, 3, 4]].isfinite().all()


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_product_with_unit_vectors_is_the_weight_itself(dtype: torch.dtype) -> None:
    weight = normal(64, 48, dtype=dtype)
    assert torch.equal(linear.apply(torch.eye(48, dtype=dtype), linear.prepare(weight)), weight.T)


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_default_dtype_does_not_matter(dtype: torch.dtype) -> None:
    weight, x = normal(32, 64, dtype=dtype), normal(5, 64, dtype=dtype)
    expected = linear.apply(x, linear.prepare(weight))
    torch.set_default_dtype(torch.bfloat16)
    try:
        assert torch.equal(linear.apply(x, linear.prepare(weight)), expected)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("machine")
def test_the_result_is_contiguous_also_where_outputs_were_padded() -> None:
    prepared, x = linear.prepare(normal(48, 64)), normal(5, 64)
    for rows in (1, 5):
        assert linear.apply(x[:rows], prepared).is_contiguous()


@pytest.mark.usefixtures("machine")
def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(ValueError, match=r"linear.prepare: got torch.int64 \[2, 2\], expected float \[O, I\]"):
        linear.prepare(torch.zeros(2, 2).long())
    prepared = linear.prepare(torch.zeros(32, 64))
    for x in (torch.zeros(2, 32), torch.zeros(64), torch.zeros(2, 64).bfloat16()):
        with pytest.raises(ValueError, match=r"linear.apply: got x .*, expected torch.float32 \[T, 64\]"):
            linear.apply(x, prepared)
    for residual in (torch.zeros(3, 32), torch.zeros(2, 32).bfloat16()):
        with pytest.raises(ValueError, match=r"linear.apply: got residual .*, expected torch.float32 \[2, 32\]"):
            linear.apply(torch.zeros(2, 64), prepared, residual)


def test_batch_invariance_goes_before_amx(vector_lanes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "_has_bf16", lambda: True)
    monkeypatch.setattr(onednn, "has_amx", lambda: True)
    weight = torch.zeros(1, 64).bfloat16()
    assert linear.describe(weight, batch_invariant=True) == bf16.describe()
    assert bf16.describe().startswith(f"cpu, {vector_lanes} lanes")
    assert linear.prepare(weight, batch_invariant=True).layout is Layout.CPU
