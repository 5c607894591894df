"""Rotary embedding and the store into the cache on a CPU, in one pass.

T = tokens, N = heads of a token (queries, keys, values), K = KV heads, D = head dim, S = slots of the cache.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from trimode.kernels.llvm import jit
from trimode.kernels.llvm.emitter import Emitter, Value
from trimode.kernels.llvm.jit import Call, ParallelKernel


def supports(qkv_TND: torch.Tensor, kv_SKD: torch.Tensor) -> str | None:
    """Returns None if `rotate_and_store` takes these tensors on this machine, otherwise the reason."""
    refused = jit.refusal(qkv_TND, kv_SKD)
    if refused is not None:
        return refused
    if not (qkv_TND.is_contiguous() and kv_SKD.is_contiguous()):
        return "heads or cache are not contiguous"
    whole = qkv_TND.shape[2] % (2 * jit.num_lanes()) == 0
    return None if whole else f"half of head_dim {qkv_TND.shape[2]} is no multiple of {jit.num_lanes()}"


def rotate_and_store(
    qkv_TND: torch.Tensor, cos_TD: torch.Tensor, sin_TD: torch.Tensor, kv_SKD: torch.Tensor, slots_T: torch.Tensor,
    query_scale_T: torch.Tensor | None = None,
) -> None:  # fmt: skip
    """Rotates and scales the queries in place and stores rotated keys and values at their slots."""
    prepare(qkv_TND, cos_TD.contiguous(), sin_TD.contiguous(), kv_SKD, slots_T.contiguous()).run()
    if query_scale_T is not None:
        qkv_TND[:, : qkv_TND.shape[1] - kv_SKD.shape[1]].mul_(query_scale_T.view(-1, 1, 1))


def prepare(
    qkv_TND: torch.Tensor, cos_TD: torch.Tensor, sin_TD: torch.Tensor, kv_SKD: torch.Tensor, slots_T: torch.Tensor
) -> Call:
    """Returns the call that does it without a query scale. All tensors are contiguous."""
    num_tokens, num_heads, head_dim = qkv_TND.shape
    num_queries, num_kv_heads = num_heads - kv_SKD.shape[1], kv_SKD.shape[1] // 2
    kernel = _kernel(jit.num_lanes(), qkv_TND.element_size(), num_queries, num_kv_heads, head_dim)
    places = (tensor.data_ptr() for tensor in (qkv_TND, cos_TD, sin_TD, kv_SKD, slots_T))
    return kernel.prepare(num_tokens, *places)


@functools.cache
def _kernel(lanes: int, size: int, num_heads: int, num_kv_heads: int, head_dim: int) -> ParallelKernel:
    """Work item: one token."""
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
