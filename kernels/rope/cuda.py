"""Rotary embedding and the store into the cache on a GPU, one launch: a program takes some heads of one token.

Each number is read once and written once. The tables of cosines and sines are read, not computed: for a token of the
8B model they are 512 of 25,088 bytes of traffic, and they hold the numbers that the released model rounds.

T = tokens, N = heads of a token (queries, keys, values), K = KV heads, D = head dim, S = slots of the cache.
"""

from __future__ import annotations

import torch
from trimode.kernels.cuda import runtime
from trimode.kernels.cuda.runtime import jit, tl

HEADS = 8
"""Heads of a program: few, so that one token alone has several programs."""
MAX_HEAD_DIM = 256
PER_STEP = ["cos_at", "sin_at", "slots_at", "scale_at"]
"""Arguments that lie elsewhere in each step: their alignment must not compile the kernel again."""


def supports(qkv_TND: torch.Tensor, kv_SKD: torch.Tensor, *others: torch.Tensor) -> str | None:
    """Returns None if `rotate_and_store` takes these tensors here, otherwise the reason.

    Args:
        qkv_TND: the heads.
        kv_SKD: the cache.
        others: the tables, the slots and the query scale, as far as there are any.
    """
    if refused := runtime.refusal(qkv_TND, kv_SKD, *others):
        return refused
    if qkv_TND.dtype not in runtime.DTYPES:
        return f"no GPU kernel for {qkv_TND.dtype}"
    if qkv_TND.stride(2) != 1 or kv_SKD.stride(2) != 1:
        return "head_dim is not contiguous"
    head_dim = qkv_TND.shape[2]
    return None if head_dim <= MAX_HEAD_DIM else f"head_dim {head_dim} is above {MAX_HEAD_DIM}"


def rotate_and_store(
    qkv_TND: torch.Tensor, cos_TD: torch.Tensor, sin_TD: torch.Tensor, kv_SKD: torch.Tensor, slots_T: torch.Tensor,
    query_scale_T: torch.Tensor | None = None,
) -> None:  # fmt: skip
    """Rotates and scales the queries in place and stores rotated keys and values at their slots."""
    num_tokens, num_heads, head_dim = qkv_TND.shape
    num_kv_heads = kv_SKD.shape[1] // 2
    scale_T = None if query_scale_T is None else query_scale_T.contiguous()
    runtime.launch(
        _rotate_and_store, (num_tokens, -(-num_heads // HEADS)),
        qkv_TND, cos_TD.contiguous(), sin_TD.contiguous(), kv_SKD, slots_T.contiguous(), scale_T,
        qkv_TND.stride(0), qkv_TND.stride(1), kv_SKD.stride(0), kv_SKD.stride(1),
        NUM_HEADS=num_heads, NUM_QUERY_HEADS=num_heads - 2 * num_kv_heads, NUM_KV=num_kv_heads, DIM=head_dim,
        HALF=1 << (head_dim // 2 - 1).bit_length(), HEADS=HEADS, num_warps=2,
    )  # fmt: skip


@jit
def _slot_offset(slot, stride):
    """Returns where a slot begins, in elements, in 64 bits: caches have more than 2^31 elements."""
    return slot.to(tl.int64) * stride


@jit(do_not_specialize_on_alignment=PER_STEP)
def _rotate_and_store(
    qkv_at, cos_at, sin_at, kv_at, slots_at, scale_at, token_stride, head_stride, slot_stride, kv_head_stride,
    NUM_HEADS: tl.constexpr, NUM_QUERY_HEADS: tl.constexpr, NUM_KV: tl.constexpr, DIM: tl.constexpr,
    HALF: tl.constexpr, HEADS: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    pair = tl.arange(0, HALF)
    inside = pair < DIM // 2
    shown = (head < NUM_HEADS)[:, None] & inside[None, :]
    source = qkv_at + token * token_stride + head[:, None] * head_stride + pair[None, :]
    first = tl.load(source, mask=shown, other=0.0)
    second = tl.load(source + DIM // 2, mask=shown, other=0.0)
    table = token * DIM + pair
    cos_first = tl.load(cos_at + table, mask=inside, other=0.0).to(tl.float32)[None, :]
    cos_second = tl.load(cos_at + table + DIM // 2, mask=inside, other=0.0).to(tl.float32)[None, :]
    sin_first = tl.load(sin_at + table, mask=inside, other=0.0).to(tl.float32)[None, :]
    sin_second = tl.load(sin_at + table + DIM // 2, mask=inside, other=0.0).to(tl.float32)[None, :]
    x, y = first.to(tl.float32), second.to(tl.float32)
    dtype = qkv_at.dtype.element_ty
    turned_first = (x * cos_first - y * sin_first).to(dtype)
    turned_second = (y * cos_second + x * sin_second).to(dtype)
    is_query = shown & (head < NUM_QUERY_HEADS)[:, None]
    scaled_first, scaled_second = turned_first, turned_second
    if scale_at is not None:
        # Rounded before the scale is applied, as the released model does.
        scale = tl.load(scale_at + token).to(tl.float32)
        scaled_first = (turned_first.to(tl.float32) * scale).to(dtype)
        scaled_second = (turned_second.to(tl.float32) * scale).to(dtype)
    tl.store(source, scaled_first, mask=is_query)
    tl.store(source + DIM // 2, scaled_second, mask=is_query)
    # Value heads come after the key heads and are stored as they are.
    is_value = (head >= NUM_QUERY_HEADS + NUM_KV)[:, None]
    is_stored = shown & (head >= NUM_QUERY_HEADS)[:, None]
    slot = _slot_offset(tl.load(slots_at + token), slot_stride)
    target = kv_at + slot + (head - NUM_QUERY_HEADS)[:, None] * kv_head_stride + pair[None, :]
    tl.store(target, tl.where(is_value, first, turned_first), mask=is_stored)
    tl.store(target + DIM // 2, tl.where(is_value, second, turned_second), mask=is_stored)
