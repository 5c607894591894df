"""Rotary embedding and its store into the cache: by complex numbers, against float64, and the tables."""

from __future__ import annotations

import math

import pytest
import torch
from trimode.kernels.cuda import runtime
from trimode.kernels.cuda.runtime import jit, tl
from trimode.kernels.rope import cuda, describe, query_scale, rope_cos_sin, rotate_and_store
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
        (qkv, table.to("meta"), table, cache, slots),
        (qkv, table, table, cache, slots, torch.zeros(4)),
        (qkv, table, table, cache, slots, torch.zeros(5).bfloat16()),
    ]
    for arguments in wrong:
        with pytest.raises(ValueError, match=r"rotate_and_store: got qkv, cos, sin, cache, slots.*: torch.*; expected"):
            rotate_and_store(*arguments)


@pytest.mark.usefixtures("lanes")
def test_the_query_scale_follows_the_rounded_rotation() -> None:
    qkv, scale = normal(5, 4, 32, dtype=torch.bfloat16), normal(5, dtype=torch.bfloat16, seed=3)
    cos, sin = normal(5, 32, dtype=torch.bfloat16, seed=1), normal(5, 32, dtype=torch.bfloat16, seed=2)
    plain, scaled = qkv.clone(), qkv.clone()
    caches = torch.zeros(2, 5, 2, 32, dtype=torch.bfloat16)
    rotate_and_store(plain, cos, sin, caches[0], torch.arange(5))
    rotate_and_store(scaled, cos, sin, caches[1], torch.arange(5), scale)
    assert torch.equal(scaled[:, :2], plain[:, :2] * scale.view(-1, 1, 1))
    assert torch.equal(*caches)


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float16])
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(8, 2, 128), (1, 1, 32), (3, 2, 10), (16, 1, 96)])
@pytest.mark.parametrize("scaled", [False, True])
def test_on_a_gpu(heads: int, kv_heads: int, dim: int, dtype: torch.dtype, scaled: bool, gpu: torch.device) -> None:
    qkv = normal(5, heads + 2 * kv_heads, dim, dtype=dtype).to(gpu)
    cos, sin = (normal(5, dim, dtype=dtype, seed=seed).to(gpu) for seed in (1, 2))
    scale = normal(5, dtype=dtype, seed=3).to(gpu) if scaled else None
    cache = torch.full((40, 2 * kv_heads, dim), math.nan, dtype=dtype, device=gpu)
    # The last two are padding tokens, which share a spare slot.
    slots = torch.tensor([33, 2, 17, 39, 39], device=gpu)
    exact, plain = rotate(qkv.double(), cos.double(), sin.double()), rotate(qkv, cos, sin)
    queries, keys = slice(0, heads), slice(heads, heads + kv_heads)
    exact_queries, plain_queries = exact[:, queries], plain[:, queries]
    if scale is not None:
        exact_queries, plain_queries = (wide * scale.view(-1, 1, 1) for wide in (exact_queries, plain_queries))
    before = qkv.clone()
    assert describe(qkv, cache) == f"cuda, sm_{runtime.capability(gpu)}"
    rotate_and_store(qkv, cos, sin, cache, slots, scale)
    assert_no_worse(qkv[:, queries], plain_queries, exact_queries)
    assert torch.equal(qkv[:, heads:], before[:, heads:])
    assert_no_worse(cache[slots[:3], :kv_heads], plain[:3, keys], exact[:3, keys])
    assert torch.equal(cache[slots[:3], kv_heads:], before[:3, heads + kv_heads :])
    untouched = torch.ones(40, dtype=torch.bool, device=gpu).index_fill_(0, slots, False)
    assert cache[untouched].isnan().all()


def test_heads_and_slots_that_are_part_of_wider_rows_on_a_gpu(gpu: torch.device) -> None:
    wide, wide_cache = normal(3, 6, 64).to(gpu), torch.zeros(9, 3, 64, device=gpu)
    cos, sin, slots = normal(3, 32, seed=1).to(gpu), normal(3, 32, seed=2).to(gpu), torch.tensor([8, 0, 3], device=gpu)
    qkv, cache = wide[:, 1:5, 32:].contiguous(), torch.zeros(9, 2, 32, device=gpu)
    rotate_and_store(wide[:, 1:5, 32:], cos, sin, wide_cache[:, 1:, :32], slots)
    rotate_and_store(qkv, cos, sin, cache, slots)
    assert torch.equal(wide[:, 1:3, 32:], qkv[:, :2])
    assert torch.equal(wide_cache[:, 1:, :32], cache)
    assert cuda.supports(wide[..., ::2], cache) == "head_dim is not contiguous"
    assert cuda.supports(qkv.int(), cache) == "no GPU kernel for torch.int32"


def test_no_tokens_on_a_gpu(gpu: torch.device) -> None:
    qkv, table, cache = (torch.zeros(shape, device=gpu) for shape in ((0, 4, 32), (0, 32), (9, 2, 32)))
    rotate_and_store(qkv, table, table, cache, torch.zeros(0, dtype=torch.int64, device=gpu))
    assert not cache.any()


@jit
def _slot_offsets(slot_at, offset_at):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202 -- Triton
    tl.store(offset_at + tl.arange(0, 2), slot_offset(tl.load(slot_at + tl.arange(0, 2)), 2048))


slot_offset = cuda._slot_offset


def test_slots_of_large_caches(gpu: torch.device) -> None:
    offsets = torch.zeros(2, dtype=torch.int64, device=gpu)
    runtime.launch(_slot_offsets, (1,), torch.tensor([2**20, 2**31 + 5], device=gpu), offsets)
    assert offsets.tolist() == [2**31, (2**31 + 5) * 2048]
