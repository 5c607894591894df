"""Quantised weights: what is stored, what it is worth, and the product that defines their arithmetic."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from trimode.kernels import linear
from trimode.kernels.linear import Layout, quantized
from trimode.kernels.linear.quantized import (
    MAX_E4M3,
    QuantizedWeight,
    Scheme,
    dequantize,
    join,
    pack,
    quantize,
    quantize_rows,
    unpack,
)
from trimode.tests.kernels.numerics import DTYPES, normal

SCHEMES = list(Scheme)


def spiky(outputs: int, inputs: int, seed: int = 0) -> torch.Tensor:
    """Weights of heavy tails, whose outliers make a clipped range worth while."""
    plain = normal(outputs, inputs, seed=seed)
    return plain * plain.abs().square()


@pytest.mark.parametrize(("inputs", "group"), [(256, 128), (192, 64), (96, 32)])
def test_codes_scales_and_zeros_of_w4a16(inputs: int, group: int) -> None:
    weight = quantize(normal(5, inputs), Scheme.w4a16, torch.bfloat16)
    assert (weight.num_outputs, weight.num_inputs, weight.group_size) == (5, inputs, group)
    assert (weight.codes.dtype, tuple(weight.codes.shape)) == (torch.uint8, (5, inputs // 2))
    assert (weight.scales.dtype, tuple(weight.scales.shape)) == (torch.float32, (5, inputs // group))
    assert weight.zeros is not None
    assert (weight.zeros.dtype, tuple(weight.zeros.shape)) == (torch.uint8, (5, inputs // group))
    assert weight.zeros.max() <= 15
    assert torch.equal(weight.scales.bfloat16().float(), weight.scales)
    assert weight.nbytes == 5 * inputs // 2 + 5 * (inputs // group) * 5


def test_codes_and_scales_of_fp8() -> None:
    plain = normal(5, 96)
    weight = quantize(plain, Scheme.fp8, torch.bfloat16)
    assert (weight.codes.dtype, tuple(weight.codes.shape)) == (torch.float8_e4m3fn, (5, 96))
    assert torch.equal(weight.scales, plain.abs().amax(1) / MAX_E4M3)
    assert weight.codes.float().abs().amax(1).tolist() == [MAX_E4M3] * 5
    assert weight.nbytes == 5 * 96 + 5 * 4


def test_the_error_of_fp8_is_half_a_unit_in_the_last_place() -> None:
    plain = spiky(16, 128)
    got = dequantize(quantize(plain, Scheme.fp8, torch.float32))
    step = torch.maximum(plain.abs() * 2.0**-4, plain.abs().amax(1, keepdim=True) / MAX_E4M3 * 2.0**-10)
    assert ((got - plain).abs() <= step * 1.0001).all()


def test_the_error_of_w4a16_is_half_a_step_where_nothing_is_clipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantized, "SHRINKS", (1.0,))
    plain = normal(16, 256)
    weight = quantize(plain, Scheme.w4a16, torch.float32)
    # The scale and the zero are rounded too, which may cut half a step more, and 15 steps times 2^-9, off the ends.
    bound = weight.scales.repeat_interleave(128, dim=1) * (1 + 15 * 2.0**-9)
    assert ((dequantize(weight) - plain).abs() <= bound).all()


def test_the_clip_search_is_never_worse_than_the_whole_range_and_often_better(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = spiky(64, 512)
    groups = plain.view(64, 4, 128)

    def error() -> torch.Tensor:
        return (dequantize(quantize(plain, Scheme.w4a16, torch.float32)).view_as(groups) - groups).square().sum(2)

    searched = error()
    monkeypatch.setattr(quantized, "SHRINKS", (1.0,))
    whole = error()
    assert (searched <= whole).all()
    assert (searched < whole).float().mean() > 0.5


def test_what_was_quantised_is_found_again() -> None:
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 16, (9, 256), generator=generator)
    codes[:, 0::128], codes[:, 1::128] = 0, 15  # every group uses its whole range
    int4 = QuantizedWeight(
        scheme=Scheme.w4a16,
        codes=pack(codes),
        scales=normal(9, 2).abs().bfloat16().float(),
        zeros=torch.randint(0, 16, (9, 2), generator=generator).to(torch.uint8),
        num_outputs=9,
        num_inputs=256,
        dtype=torch.bfloat16,
        group_size=128,
    )
    for weight in (int4, quantize(normal(9, 256), Scheme.fp8, torch.bfloat16)):
        again = quantize(dequantize(weight), weight.scheme, torch.bfloat16)
        assert torch.equal(again.codes.view(torch.uint8), weight.codes.view(torch.uint8))
        assert torch.allclose(again.scales, weight.scales, rtol=2e-7, atol=0)
        assert weight.zeros is None or torch.equal(again.zeros, weight.zeros)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("stored", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_codes_do_not_depend_on_the_dtype_of_the_rows(scheme: Scheme, stored: torch.dtype) -> None:
    plain = normal(3, 128).to(stored)
    results = [quantize(plain, scheme, dtype) for dtype in quantized.ROW_DTYPES]
    assert [result.dtype for result in results] == list(quantized.ROW_DTYPES)
    for result in results[1:]:
        assert torch.equal(result.codes.view(torch.uint8), results[0].codes.view(torch.uint8))
        assert torch.equal(result.scales, results[0].scales)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_joining_and_quantising_commute(scheme: Scheme, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [normal(rows, 256, seed=rows) for rows in (4, 1, 7)]
    joined = join([quantize(part, scheme, torch.bfloat16) for part in parts])
    monkeypatch.setattr(quantized, "_ELEMENTS", 512)  # two rows at a time
    whole = quantize(torch.cat(parts), scheme, torch.bfloat16)
    assert (joined.num_outputs, joined.group_size) == (12, whole.group_size)
    assert torch.equal(dequantize(joined), dequantize(whole))


def test_symmetric_and_asymmetric_parts_are_joined() -> None:
    one = quantize(normal(2, 128), Scheme.w4a16, torch.bfloat16)
    other = dataclasses.replace(quantize(normal(3, 128, seed=1), Scheme.w4a16, torch.bfloat16), zeros=None)
    joined = join([one, other])
    assert joined.zeros is not None
    assert joined.zeros[2:].unique().tolist() == [8]
    assert torch.equal(dequantize(joined), torch.cat([dequantize(one), dequantize(other)]))
    assert join([other, other]).zeros is None


def test_parts_that_cannot_be_joined_are_refused() -> None:
    fp8, int4 = (quantize(normal(2, 128), scheme, torch.bfloat16) for scheme in (Scheme.fp8, Scheme.w4a16))
    for parts in ([fp8, int4], [fp8, dataclasses.replace(fp8, dtype=torch.float16)], []):
        with pytest.raises(ValueError, match=r"join: got .*, expected parts of one scheme"):
            join(parts)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_zeros_stay_zeros_and_tiny_weights_stay_finite(scheme: Scheme) -> None:
    plain = torch.zeros(4, 128)
    plain[1], plain[2], plain[3, 0] = 1e-44, -3.0, 1e38
    got = dequantize(quantize(plain, scheme, torch.float32))
    assert got.isfinite().all()
    assert (got[0] == 0).all()
    assert torch.allclose(got[2], plain[2], rtol=0.004)
    assert (got[3, 1:] == 0).all()


def test_codes_are_packed_even_inputs_low() -> None:
    codes = torch.arange(16).reshape(2, 8)
    packed = pack(codes)
    assert packed.tolist() == [[0x10, 0x32, 0x54, 0x76], [0x98, 0xBA, 0xDC, 0xFE]]
    assert torch.equal(unpack(packed), codes.to(torch.uint8))


def test_a_row_is_scaled_by_its_own_peak_and_spoils_no_other() -> None:
    x = normal(5, 64, dtype=torch.bfloat16)
    x[1], x[2, 3], x[3, 3] = 0.0, math.nan, math.inf
    codes, scales = quantize_rows(x)
    assert torch.equal(scales[[0, 4]], x[[0, 4]].float().abs().amax(1) / MAX_E4M3)
    assert (codes[1].float() == 0).all()
    assert scales[1] == 1
    plain = codes.float() * scales[:, None]
    assert plain[[2, 3]].isnan().all()
    assert plain[[0, 1, 4]].isfinite().all()


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("dtype", [*DTYPES, torch.float16])
def test_the_product_is_that_of_the_dequantised_weight_rounded_once(scheme: Scheme, dtype: torch.dtype) -> None:
    weight = quantize(normal(40, 192), scheme, dtype)
    prepared = linear.prepare_quantized(weight, batch_invariant=True)
    assert prepared.layout is Layout.COMPACT or prepared.nbytes == weight.nbytes
    x, residual = normal(6, 192, seed=1).to(dtype), normal(6, 40, seed=2).to(dtype)
    rows = x.double()
    if scheme is Scheme.fp8:
        codes, scales = quantize_rows(x)
        rows = codes.double() * scales.double()[:, None]
    plain = dequantize(weight).double()
    for added in (None, residual):
        exact = rows @ plain.T + (0 if added is None else added.double())
        # One rounding, and the sum of 192 products in float32.
        bound = exact.abs() * torch.finfo(dtype).eps / 2 + (rows.abs() @ plain.T.abs()) * 192 * 2.0**-24
        got = linear.apply(x, prepared, added)
        assert got.dtype == dtype
        assert ((got.double() - exact).abs() <= bound + torch.finfo(dtype).tiny).all()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_rows_that_are_not_finite_spoil_their_own_results_only(scheme: Scheme) -> None:
    prepared = linear.prepare_quantized(quantize(normal(32, 64), scheme, torch.bfloat16))
    x = normal(4, 64, dtype=torch.bfloat16)
    x[1, 0], x[2, 0] = math.nan, math.inf
    got = linear.apply(x, prepared)
    assert got[1].isnan().all()
    assert not got[2].isfinite().any()
    assert got[[0, 3]].isfinite().all()
    assert linear.apply(x[:0], prepared).shape == (0, 32)


def test_what_cannot_be_quantised_is_named() -> None:
    for scheme in SCHEMES:
        for wrong in (torch.zeros(4), torch.zeros(2, 128).long()):
            with pytest.raises(ValueError, match=r"quantize: got .*, expected float \[O, I\]"):
                quantize(wrong, scheme, torch.bfloat16)
        spoiled = torch.zeros(2, 128)
        spoiled[1, 5] = math.nan
        with pytest.raises(ValueError, match="quantize: got NaN or infinity, expected finite weights"):
            quantize(spoiled, scheme, torch.bfloat16)
        with pytest.raises(ValueError, match=r"QuantizedWeight.dtype: got torch.int64, expected one of"):
            quantize(torch.zeros(2, 128), scheme, torch.int64)
    for inputs in (0, 16, 80):
        with pytest.raises(ValueError, match=f"w4a16: got {inputs} inputs, expected a multiple of 32"):
            quantize(torch.zeros(2, inputs), Scheme.w4a16, torch.bfloat16)


def changed(weight: QuantizedWeight, name: str, value: object) -> None:
    dataclasses.replace(weight, **{name: value})  # type: ignore[arg-type]


def test_parts_that_do_not_fit_are_named() -> None:
    fp8, int4 = (quantize(normal(4, 128), scheme, torch.bfloat16) for scheme in (Scheme.fp8, Scheme.w4a16))
    for name, value, message in (
        ("codes", fp8.codes[:3], r"codes: got torch.float8_e4m3fn \[3, 128\] on cpu, expected .* \[4, 128\] on cpu"),
        ("codes", fp8.codes.float(), "codes: got torch.float32 .*, expected contiguous torch.float8_e4m3fn"),
        ("codes", torch.empty(128, 4).to(fp8.codes.dtype).T, "codes: got not contiguous"),
        ("scales", fp8.scales.bfloat16(), r"scales: got torch.bfloat16 \[4\] .* torch.float32 \[4\]"),
        ("scales", fp8.scales.to("meta"), r"scales: got torch.float32 \[4\] on meta"),
        ("zeros", int4.zeros, "zeros: got a tensor, expected None in fp8"),
        ("group_size", 128, r"group_size: got 128, expected one of \[None\] in fp8"),
    ):
        with pytest.raises(ValueError, match=f"QuantizedWeight.{message}"):
            changed(fp8, name, value)
    for name, value, message in (
        ("codes", int4.codes.to(torch.int8), "codes: got torch.int8"),
        ("scales", int4.scales[:, 0], r"scales: got torch.float32 \[4\] .* \[4, 1\]"),
        ("zeros", int4.scales, "zeros: got torch.float32"),
        ("group_size", 64, r"scales: got torch.float32 \[4, 1\] on cpu, expected contiguous torch.float32 \[4, 2\]"),
        ("group_size", 48, r"group_size: got 48, expected one of \[128, 64, 32\] in w4a16 with 128 inputs"),
        ("group_size", None, r"group_size: got None, expected one of \[128, 64, 32\]"),
    ):
        with pytest.raises(ValueError, match=f"QuantizedWeight.{message}"):
            changed(int4, name, value)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_weight_moves_to_a_device_with_all_its_parts(scheme: Scheme) -> None:
    moved = quantize(normal(4, 128), scheme, torch.bfloat16).to(torch.device("meta"))
    assert moved.codes.is_meta
    assert moved.scales.is_meta
    assert moved.zeros is None or moved.zeros.is_meta
