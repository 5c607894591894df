"""The CPU product with bfloat16 weights: the same bits for a row beside any rows, with any threads, on any CPU."""

from __future__ import annotations

import math

import pytest
import torch
from trimode.kernels.linear import bf16
from trimode.kernels.llvm import jit, ranges
from trimode.tests.kernels.conftest import BF16_KINDS, pretend
from trimode.tests.kernels.numerics import normal

SHAPE = (70, 1040)
"""Outputs that fill no whole block, and inputs that fill no whole stretch."""
COUNTS = (1, 4, 14, 15, 32, 64, 129, 512)


@pytest.fixture(params=BF16_KINDS)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[int, bool]:
    """Every way in which this CPU can multiply bfloat16: lanes, and True for its instruction for pairs."""
    lanes, dot = request.param
    pretend(monkeypatch, lanes, bf16_dot=dot)
    return lanes, dot


def in_order(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The sums in float32, in the documented order: of a pair the second input first, stretches of 128 pairs.

    Products of bfloat16 are exact in float64. Its sum with a float32 is rounded twice, which float32 can notice only
    where the first rounding falls on a tie: too rare for these numbers.
    """
    total = torch.zeros(x.shape[0], weight.shape[0])
    for start in range(0, x.shape[1], 256):
        own = torch.zeros_like(total)
        for pair in range(start, min(start + 256, x.shape[1]), 2):
            for place in (pair + 1, pair):
                product = x[:, place, None].double() * weight[:, place].double()
                own = (own.double() + product).float()
        total += own
    return total


def test_sums_have_the_documented_order(kind: tuple[int, bool]) -> None:
    weight, x = normal(*SHAPE, dtype=torch.bfloat16), normal(17, SHAPE[1], dtype=torch.bfloat16, seed=1)
    got = bf16.product(x, bf16.pack(weight), SHAPE[0])
    assert torch.equal(got, in_order(x, weight).bfloat16()), kind


@pytest.mark.usefixtures("threads")
def test_a_row_has_the_same_bits_beside_any_rows(kind: tuple[int, bool]) -> None:
    packed = bf16.pack(normal(*SHAPE, dtype=torch.bfloat16))
    x, residual = (normal(600, size, dtype=torch.bfloat16, seed=1) for size in (SHAPE[1], SHAPE[0]))
    together = bf16.product(x, packed, SHAPE[0], residual)
    for count in COUNTS:
        for start in (0, 600 - count):
            rows = slice(start, start + count)
            assert torch.equal(bf16.product(x[rows], packed, SHAPE[0], residual[rows]), together[rows]), (kind, count)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_partition_changes_no_bit(share: float, kind: tuple[int, bool], monkeypatch: pytest.MonkeyPatch) -> None:
    packed = bf16.pack(normal(1000, 96, dtype=torch.bfloat16))
    x = normal(20, 96, dtype=torch.bfloat16, seed=1)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    alone = bf16.product(x, packed, 1000)
    monkeypatch.setattr(ranges, "_LONG_SHARE", share)
    try:
        for threads in (2, 3):
            torch.set_num_threads(threads)
            assert torch.equal(bf16.product(x, packed, 1000), alone), kind
    finally:
        torch.set_num_threads(before)


def test_cpus_with_and_without_the_instruction_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, x = normal(*SHAPE, dtype=torch.bfloat16), normal(33, SHAPE[1], dtype=torch.bfloat16, seed=1)
    weight[3] *= 2.0**-127
    x[5, ::3] *= 2.0**-128
    for part in (weight[3], x[5]):
        assert (part.abs() < torch.finfo(torch.bfloat16).tiny).any()
    results = []
    for lanes, dot in BF16_KINDS:
        with monkeypatch.context() as patch:
            pretend(patch, lanes, bf16_dot=dot)
            results.append(bf16.product(x, bf16.pack(weight), SHAPE[0]))
    for result in results[1:]:
        assert torch.equal(result.view(torch.int16), results[0].view(torch.int16))


def test_subnormal_numbers_count_as_zero(kind: tuple[int, bool]) -> None:
    x, weight = torch.zeros(1, 32).bfloat16(), torch.zeros(2, 32).bfloat16()
    x[0, :4] = torch.tensor([2.0**-130, 2.0**-120, 2.0**-130, 0.5])
    weight[0, :4] = torch.tensor([2.0**100, 2.0**-3, 1.0, 2.0**-130])
    weight[1, :4] = torch.tensor([2.0**100, 1.0, 1.0, 0.0])
    assert bf16.product(x, bf16.pack(weight), 2).tolist() == [[2.0**-123, 2.0**-120]], kind
    assert (torch.tensor(2.0**-130) * 1.0).item() == 2.0**-130, "the caller's thread is as it was"


def test_the_error_is_that_of_float32(kind: tuple[int, bool]) -> None:
    weight, x = normal(64, 4096, dtype=torch.bfloat16), normal(40, 4096, dtype=torch.bfloat16, seed=1)
    exact = x.double() @ weight.double().T
    residual = -exact.bfloat16()  # what is left shows more bits of the sum than a result in bfloat16
    rest = bf16.product(x, bf16.pack(weight), 64, residual).double() - (exact + residual.double())
    of_rounding = (exact + residual.double()).abs() * 2.0**-8
    error = (rest.abs() - of_rounding).clamp_min(0)
    assert error.square().mean().sqrt() <= 1.5e-7 * exact.square().mean().sqrt(), kind


def test_rows_that_are_not_finite_spoil_their_own_results_only(kind: tuple[int, bool]) -> None:
    weight, x = normal(40, 272, dtype=torch.bfloat16), normal(70, 272, dtype=torch.bfloat16, seed=1)
    plain = bf16.product(x, bf16.pack(weight), 40)
    x[3, 271], x[69, 0] = math.nan, math.inf
    weight[7, 5] = -math.inf
    got = bf16.product(x, bf16.pack(weight), 40)
    assert got[3].isnan().all(), kind
    assert not got[69].isfinite().any()
    assert not got[:, 7].isfinite().any()
    finite = [row for row in range(70) if row not in (3, 69)]
    outputs = [output for output in range(40) if output != 7]
    assert torch.equal(got[finite][:, outputs], plain[finite][:, outputs])


def test_rows_at_odd_places_of_a_wider_tensor(kind: tuple[int, bool]) -> None:
    packed, wide = bf16.pack(normal(*SHAPE, dtype=torch.bfloat16)), normal(80, 1100, dtype=torch.bfloat16, seed=1)
    for count in (1, 2, 80):
        x = wide[:count, 3 : 3 + SHAPE[1]]
        assert torch.equal(bf16.product(x, packed, SHAPE[0]), bf16.product(x.contiguous(), packed, SHAPE[0])), kind


def test_the_choice_is_named_with_its_reason(kind: tuple[int, bool]) -> None:
    lanes, dot = kind
    what = "bfloat16 (AVX512-BF16)" if dot else "float32: a CPU without AVX512-BF16"
    assert bf16.describe() == f"cpu, {lanes} lanes of {what}"


def test_avx512_alone_does_not_have_the_instruction(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jit.binding, "get_host_cpu_features", lambda: {"avx512f": True})
    assert not jit.has_bf16_dot.__wrapped__()
