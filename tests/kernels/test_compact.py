"""Weights in 12, 8 and 4 bits on a CPU: what is stored, and products that are unpacked in registers."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from trimode.kernels import linear
from trimode.kernels.linear import Layout, bf16, compact, packed12, reference
from trimode.kernels.linear.quantized import QuantizedWeight, Scheme, quantize
from trimode.tests.kernels.conftest import pretend
from trimode.tests.kernels.numerics import assert_no_worse, normal

needs_cpu = pytest.mark.skipif(compact.missing() is not None, reason="no CPU with AVX512-BF16 and AVX512-VBMI")
ROWS = (*range(1, 34), 38, 39, 64, 129, 300)
SHAPES = [(32, 128), (70, 96), (96, 256), (33, 1056), (160, 2080)]
SCHEMES = [Scheme.w8a16, Scheme.w4a16]


def weights(outputs: int, inputs: int) -> torch.Tensor:
    """Numbers of a trained matrix, with some that have no code."""
    plain = normal(outputs, inputs, dtype=torch.bfloat16) * 0.02
    plain[0, 0], plain[-1, -1], plain[outputs // 2, inputs // 3] = 1e-12, -30.0, 0.0
    plain[outputs // 2, inputs // 3 + 1] = -0.0
    return plain


def packed_of(plain: torch.Tensor) -> packed12.Packed12:
    packed = packed12.pack(plain)
    assert not isinstance(packed, str)
    return packed


def int4(outputs: int, inputs: int, *, zeros: bool = True) -> QuantizedWeight:
    weight = quantize(normal(outputs, inputs) * 0.02, Scheme.w4a16, torch.bfloat16)
    return weight if zeros else dataclasses.replace(weight, zeros=None)


@pytest.mark.parametrize("shape", [(1, 32), (31, 256), (70, 96), (96, 256), (4097, 1024)])
def test_unpacking_gives_every_bit(shape: tuple[int, int]) -> None:
    plain = weights(*shape) if shape[0] > 1 else normal(*shape, dtype=torch.bfloat16)
    got = packed12.unpack(packed_of(plain))
    assert torch.equal(got.view(torch.int16), plain.view(torch.int16))


def test_a_quarter_is_saved_where_few_weights_are_exceptions() -> None:
    plain = normal(1024, 1024, dtype=torch.bfloat16)
    packed = packed_of(plain)
    assert 0.75 < packed.nbytes / plain.nbytes < 0.77
    assert len(packed.raw_E) == len(packed.places_E) - 1 == packed.first_BE[-1] > 0


@pytest.mark.parametrize(
    ("value", "reason"),
    [(1e-39, "a weight is subnormal"), (float("inf"), "not finite"), (float("nan"), "not finite"), (1e38, "far apart")],
)
def test_weights_that_do_not_fit_are_named(value: float, reason: str) -> None:
    plain = normal(32, 32, dtype=torch.bfloat16) * (1e-20 if value == 1e38 else 1)
    plain[3, 5] = value
    assert reason in str(packed12.pack(plain))


def test_a_pruned_matrix_stays_plain() -> None:
    plain = normal(64, 128, dtype=torch.bfloat16)
    plain[torch.rand(64, 128, generator=torch.Generator().manual_seed(0)) < 0.02] = 0
    assert "of its steps hold other exponents" in str(packed12.pack(plain))
    assert linear.prepare(plain, batch_invariant=True, packed12=True).layout is not Layout.COMPACT


@needs_cpu
@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("shape", SHAPES)
def test_12_bits_give_the_bits_of_the_plain_product(shape: tuple[int, int]) -> None:
    plain = weights(*shape)
    packed, before = compact.pack(plain), bf16.pack(plain)
    assert not isinstance(packed, str)
    assert len(packed.exceptions[2]) >= 2
    for rows in ROWS:
        x, residual = (normal(rows, width, dtype=torch.bfloat16, seed=rows) for width in reversed(shape))
        for added in (None, residual):
            assert torch.equal(compact.product(x, packed, added), bf16.product(x, before, shape[0], added))


@needs_cpu
@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("shape", [*SHAPES, (96, 192), (64, 384)])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_integers_are_within_the_rounding_of_the_result(scheme: Scheme, shape: tuple[int, int]) -> None:
    weight = int4(*shape) if scheme is Scheme.w4a16 else quantize(normal(*shape), scheme, torch.bfloat16)
    exact_weight = dataclasses.replace(weight, dtype=torch.float32)
    prepared = linear.prepare_quantized(weight)
    assert (prepared.layout, prepared.scheme) == (Layout.COMPACT, scheme)
    for rows in (1, 2, 9, 10, 11, 25, 64):
        x, residual = (normal(rows, width, dtype=torch.bfloat16, seed=rows) for width in reversed(shape))
        for added in (None, residual):
            exact = reference.quantized_product(x.float(), exact_weight, added)
            assert_no_worse(linear.apply(x, prepared, added), reference.quantized_product(x, weight, added), exact)


@needs_cpu
@pytest.mark.parametrize("kind", ["12 bits", "w8a16", "w4a16", "w4a16, no zeros"])
def test_a_row_does_not_depend_on_the_others(kind: str) -> None:
    if kind == "12 bits":
        prepared = linear.prepare(weights(96, 512), packed12=True)
    elif kind == "w8a16":
        prepared = linear.prepare_quantized(quantize(normal(96, 512), Scheme.w8a16, torch.bfloat16))
    else:
        prepared = linear.prepare_quantized(int4(96, 512, zeros="no" not in kind))
    x = normal(300, 512, dtype=torch.bfloat16)
    together = linear.apply(x, prepared, x[:, :96])
    for size in ROWS:
        rows = slice(7, 7 + size)
        assert torch.equal(linear.apply(x[rows], prepared, x[rows, :96]), together[rows])


@needs_cpu
def test_rows_of_a_wider_tensor_and_none_at_all() -> None:
    prepared, wide = linear.prepare(weights(48, 64), packed12=True), normal(5, 128, dtype=torch.bfloat16)
    assert torch.equal(linear.apply(wide[:, :64], prepared), linear.apply(wide[:, :64].contiguous(), prepared))
    assert linear.apply(wide[:0, :64], prepared).shape == (0, 48)
    assert linear.apply(wide[:, :64], prepared).is_contiguous()


@needs_cpu
def test_inputs_that_are_not_finite_spoil_their_row_only() -> None:
    x = normal(12, 64, dtype=torch.bfloat16)
    x[1, 0], x[11, 0] = float("nan"), float("inf")
    for prepared in (linear.prepare(weights(64, 64), packed12=True), linear.prepare_quantized(int4(32, 64))):
        got = linear.apply(x, prepared)
        assert not got[[1, 11]].isfinite().any()
        assert got[[0, *range(2, 11)]].isfinite().all()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_elsewhere_the_reference_multiplies(scheme: Scheme, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, 0)
    weight = quantize(normal(32, 64), scheme, torch.bfloat16)
    assert linear.prepare_quantized(weight).layout is Layout.QUANTIZED
    assert linear.prepare(weights(32, 64), packed12=True).layout is not Layout.COMPACT
    assert compact.refusal_quantized(weight) == "no llvmlite"


def test_a_code_without_a_magnitude_is_multiplied_by_the_reference() -> None:
    """Other programs write -128. The kernel's bytes hold a sign and a magnitude up to 127."""
    weight = quantize(normal(32, 64), Scheme.w8a16, torch.bfloat16)
    weight.codes[3, 5] = -128
    prepared = linear.prepare_quantized(weight)
    x = normal(4, 64, dtype=torch.bfloat16)
    assert prepared.layout is Layout.QUANTIZED
    assert torch.equal(linear.apply(x, prepared), reference.quantized_product(x, weight, None))


def test_what_the_kernel_does_not_take_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compact, "missing", lambda: None)
    assert compact.pack(normal(32, 36, dtype=torch.bfloat16)) == "36 inputs are no multiple of 32"
    assert compact.pack(normal(32, 64)) == "torch.float32 is not torch.bfloat16"
    fp8 = quantize(normal(32, 64), Scheme.fp8, torch.bfloat16)
    assert compact.refusal_quantized(fp8) == "no CPU kernel for fp8"
    assert compact.refusal_quantized(quantize(normal(3, 64), Scheme.w8a16, torch.float32)) == (
        "no CPU kernel for rows in torch.float32"
    )
    least = quantize(normal(32, 64), Scheme.w8a16, torch.bfloat16)
    least.codes[31, 0] = -128
    assert compact.refusal_quantized(least) == "a code is -128, and the CPU kernel's are -127 to 127"
