"""Rotary embedding and its store into the cache: by complex numbers, against float64, and the tables."""

from __future__ import annotations

import math

import pytest
import torch
from trimode.kernels.rope import describe, query_scale, rope_cos_sin, rotate_and_store
from trimode.kernels.rope.reference import rotate
from trimode.tests.kernels.numerics import DTYPES, assert_no_worse, normal


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(4, 1, 64), (1, 1, 32), (3, 2, 10)])
def test_rotates_queries_and_stores_keys_and_values(
    heads: int, kv_heads: int, dim: int, dtype: torch.dtype, lanes: int
) -> None:
    qkv = normal(5, heads + 2 * kv_heads, dim, dtype=dtype)
    cos, sin = normal(5, dim, dtype=dtype, seed=1), normal(5, dim, dtype=dtype, seed=2)
    cache = torch.full((40, 2 * kv_heads, dim), math.nan, dtype=dtype)
    slots = torch.tensor([33, 2, 17, 0, 39])
    exact, plain = rotate(qkv.double(), cos.double(), sin.double()), rotate(qkv, cos, sin)
    before = qkv.clone()
    assert describe(qkv, cache).startswith("cpu") == (lanes > 0 and dim % (2 * lanes) == 0)
    rotate_and_store(qkv, cos, sin, cache, slots)
    keys = slice(heads, heads + kv_heads)
    assert_no_worse(qkv[:, :heads], plain[:, :heads], exact[:, :heads])
    assert_no_worse(cache[slots, :kv_heads], plain[:, keys], exact[:, keys])
    assert torch.equal(cache[slots, kv_heads:], before[:, heads + kv_heads :])
    untouched = torch.ones(40, dtype=torch.bool).index_fill_(0, slots, False)
    assert cache[untouched].isnan().all()


@pytest.mark.usefixtures("lanes")
def test_pairs_half_a_head_apart_turn_as_complex_numbers() -> None:
    qkv, cache = normal(3, 4, 32), torch.zeros(3, 2, 32)
    positions, frequencies = torch.tensor([0, 5, 9]), torch.linspace(1, 0.1, 16)
    angles = positions.unsqueeze(1) * frequencies
    pairs = torch.complex(qkv[..., :16], qkv[..., 16:]) * torch.polar(torch.ones(3, 16), angles).unsqueeze(1)
    expected = torch.cat((pairs.real, pairs.imag), dim=-1)
    cos, sin = rope_cos_sin(positions, frequencies, 1.0)
    rotate_and_store(qkv, cos, sin, cache, torch.arange(3))
    assert torch.allclose(qkv[:, :2], expected[:, :2], atol=1e-5)
    assert torch.allclose(cache[:, :1], expected[:, 2:3], atol=1e-5)


def test_tables_are_scaled_by_the_attention_factor() -> None:
    cos, sin = rope_cos_sin(torch.tensor([0, 3]), torch.tensor([1.0, 0.1]), 2.0)
    assert cos[0].tolist() == [2.0] * 4
    assert sin[1].tolist() == pytest.approx([2 * math.sin(3), 2 * math.sin(0.3)] * 2)


def test_query_scale_is_one_inside_the_original_context() -> None:
    scale = query_scale(torch.tensor([0, 63, 64, 200]), 0.1, 64)
    assert scale.tolist() == pytest.approx([1, 1, 1 + 0.1 * math.log(2), 1 + 0.1 * math.log(4)])


@pytest.mark.usefixtures("lanes")
def test_what_does_not_fit_is_named() -> None:
    qkv, table, cache, slots = torch.zeros(5, 4, 32), torch.zeros(5, 32), torch.zeros(9, 2, 32), torch.arange(5)
    wrong = [
        (qkv, table[:4], table, cache, slots),
        (qkv, table, table[:, :16], cache, slots),
        (qkv, table, table, cache[:, :1], slots),
        (qkv, table, table, cache[..., :16], slots),
        (qkv, table, table, cache, slots[:4]),
        (qkv, table, table, cache, slots.int()),
        (qkv, table.bfloat16(), table, cache, slots),
        (qkv, table, table, cache.bfloat16(), slots),
        (qkv[:, :2], table, table, cache, slots),
        (qkv[0], table, table, cache, slots),
    ]
    for arguments in wrong:
        with pytest.raises(ValueError, match="rotate_and_store: got qkv, cos, sin, cache, slots: torch"):
            rotate_and_store(*arguments)
