"""Rotary embedding on a CPU, together with what always follows it: keys and values go to their slots of the cache.

T = tokens, H = query heads, K = KV heads, D = head dim.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from trimode.kernels.llvm.emitter import Emitter, Value
from trimode.kernels.llvm.jit import ParallelKernel, num_lanes, runs_here


def rotates(qkv_TND: torch.Tensor, kv_SKD: torch.Tensor) -> bool:
    """Whether `rotate_and_store` takes these tensors on this machine."""
    contiguous = qkv_TND.is_contiguous() and kv_SKD.is_contiguous() and kv_SKD.shape[1] % 2 == 0
    return contiguous and runs_here(qkv_TND, kv_SKD) and qkv_TND.shape[2] % (2 * num_lanes()) == 0


def rotate_and_store(
    qkv_TND: torch.Tensor, cos_TD: torch.Tensor, sin_TD: torch.Tensor, kv_SKD: torch.Tensor, slots_T: torch.Tensor
) -> None:
    """Rotates the queries in place, and stores rotated keys and values at their slots.

    Args:
        qkv_TND: `[T, H + 2 * K, D]`: query heads, key heads, value heads; `rotates(qkv, kv)`.
        cos_TD: `[T, D]` in the dtype of qkv, as the released model rounds it.
        sin_TD: same.
        kv_SKD: the cache by slots, `[slots, 2 * K, D]`, K heads before V heads.
        slots_T: int64 `[T]`.

    Raises:
        ValueError: shapes or types that do not fit each other.
    """
    num_tokens, num_heads, head_dim = qkv_TND.shape
    fits = cos_TD.shape == sin_TD.shape == (num_tokens, head_dim) and slots_T.shape == (num_tokens,)
    fits = fits and slots_T.dtype == torch.int64 and rotates(qkv_TND, kv_SKD)
    fits = fits and kv_SKD.shape[2] == head_dim and cos_TD.dtype == sin_TD.dtype == qkv_TND.dtype
    if not fits:
        raise ValueError(
            f"rotate_and_store: qkv {tuple(qkv_TND.shape)}, cache {tuple(kv_SKD.shape)}, slots {tuple(slots_T.shape)}, "
            f"cos {cos_TD.dtype} {tuple(cos_TD.shape)}"
        )
    kernel = _kernel(num_lanes(), qkv_TND.element_size(), num_heads - kv_SKD.shape[1], kv_SKD.shape[1] // 2, head_dim)
    cos_TD, sin_TD, slots_T = cos_TD.contiguous(), sin_TD.contiguous(), slots_T.contiguous()
    kernel(num_tokens, qkv_TND.data_ptr(), cos_TD.data_ptr(), sin_TD.data_ptr(), kv_SKD.data_ptr(), slots_T.data_ptr())


@functools.cache
def _kernel(lanes: int, size: int, num_heads: int, num_kv_heads: int, head_dim: int) -> ParallelKernel:
    """One item: a token."""
    half = head_dim // 2

    def emit(e: Emitter, qkv: Value, cos: Value, sin: Value, cache: Value, slots: Value) -> Callable[[Value], None]:
        def emit_item(token: Value) -> None:
            source = e.at(qkv, e.mul(token, (num_heads + 2 * num_kv_heads) * head_dim), size)
            keys = e.at(source, num_heads * head_dim, size)
            slot = e.builder.load(e.at(slots, token, 8), typ=e.i64)
            stored = e.at(cache, e.mul(slot, 2 * num_kv_heads * head_dim), size)
            table = e.mul(token, head_dim)

            def rotate(origin: Value, target: Value) -> None:
                for at in range(0, half, lanes):
                    places = (at, half + at)
                    first, second = (e.load(e.at(origin, place, size), size) for place in places)
                    cosines, sines = (
                        [e.load(e.at(array, e.add(table, place), size), size) for place in places]
                        for array in (cos, sin)
                    )
                    turned = e.fma(first, cosines[0], e.builder.fneg(e.builder.fmul(second, sines[0])))
                    e.store(turned, e.at(target, places[0], size), size)
                    turned = e.fma(second, cosines[1], e.builder.fmul(first, sines[1]))
                    e.store(turned, e.at(target, places[1], size), size)

            def query(head: Value) -> None:
                place = e.at(source, e.mul(head, head_dim), size)
                rotate(place, place)

            def key_and_value(head: Value) -> None:
                at = e.mul(head, head_dim)
                rotate(e.at(keys, at, size), e.at(stored, at, size))
                for start in range(0, head_dim, lanes):
                    place = e.add(at, num_kv_heads * head_dim + start)
                    e.store(e.load(e.at(keys, place, size), size), e.at(stored, place, size), size)

            e.loop(e.const(num_heads), query)
            e.loop(e.const(num_kv_heads), key_and_value)

        return emit_item

    return ParallelKernel(lanes, 5, emit, small=True)
