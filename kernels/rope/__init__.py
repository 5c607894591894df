"""Rotary position embedding of queries and keys, together with what follows it: keys and values enter the cache.

T = tokens, N = heads of a token (queries, keys, values), K = KV heads, D = head dim, S = slots of the cache.
"""

from __future__ import annotations

import torch
from trimode.kernels.cuda import runtime
from trimode.kernels.llvm import jit
from trimode.kernels.llvm.jit import Call
from trimode.kernels.llvm.tape import check_bound
from trimode.kernels.rope import cpu, cuda, reference
from trimode.kernels.rope.tables import query_scale, rope_cos_sin, yarn_inv_freq


def rotate_and_store(
    qkv_TND: torch.Tensor, cos_TD: torch.Tensor, sin_TD: torch.Tensor, kv_SKD: torch.Tensor, slots_T: torch.Tensor,
    query_scale_T: torch.Tensor | None = None,
) -> None:  # fmt: skip
    """Rotates and scales the queries in place and stores the rotated keys and the values at their slots of the cache.

    The key and value heads of `qkv_TND` hold unspecified numbers afterwards.

    Args:
        qkv_TND: float `[T, N, D]`: query heads, K key heads, K value heads.
        cos_TD: `[T, D]` in the dtype of qkv, as the released model rounds it.
        sin_TD: the same for the sines.
        kv_SKD: the cache by slots, `[S, 2 * K, D]` in the dtype of qkv, K heads before V heads.
        slots_T: int64 `[T]`: the slot of each token. All are different, except that tokens whose keys nobody reads
            may share one; it then holds unspecified numbers.
        query_scale_T: `[T]` in the dtype of qkv: factors of the rotated and rounded queries; None = 1.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit each other.
    """
    fits = qkv_TND.dim() == kv_SKD.dim() == 3
    if fits:
        num_tokens, num_heads, head_dim = qkv_TND.shape
        fits = cos_TD.shape == sin_TD.shape == (num_tokens, head_dim) and slots_T.shape == (num_tokens,)
        fits = fits and kv_SKD.shape[2] == head_dim and head_dim % 2 == 0
        fits = fits and kv_SKD.shape[1] % 2 == 0 and num_heads > kv_SKD.shape[1]
    scales = () if query_scale_T is None else (query_scale_T,)
    fits = fits and all(scale.shape == (num_tokens,) for scale in scales)
    floats = (qkv_TND, cos_TD, sin_TD, kv_SKD, *scales)
    fits = fits and slots_T.dtype == torch.int64 and len({tensor.dtype for tensor in floats}) == 1
    if not fits or len({tensor.device for tensor in (*floats, slots_T)}) > 1:
        given = (qkv_TND, cos_TD, sin_TD, kv_SKD, slots_T, *scales)
        got = ", ".join(f"{tensor.dtype} {list(tensor.shape)} on {tensor.device}" for tensor in given)
        raise ValueError(
            f"rotate_and_store: got qkv, cos, sin, cache, slots{', query scale' if scales else ''}: {got}; expected "
            "[T, N, D], [T, D], [T, D], [S, 2K, D] of one dtype, int64 [T] and, of the same dtype as qkv, [T], all on "
            "one device, with N > 2K and D even"
        )
    if cuda.supports(qkv_TND, kv_SKD, cos_TD, sin_TD, slots_T, *scales) is None:
        cuda.rotate_and_store(qkv_TND, cos_TD, sin_TD, kv_SKD, slots_T, query_scale_T)
        return
    run = cpu.rotate_and_store if cpu.supports(qkv_TND, kv_SKD) is None else reference.rotate_and_store
    run(qkv_TND, cos_TD, sin_TD, kv_SKD, slots_T, query_scale_T)


def prepare(
    qkv_TND: torch.Tensor, cos_TD: torch.Tensor, sin_TD: torch.Tensor, kv_SKD: torch.Tensor, slots_T: torch.Tensor
) -> Call:
    """Returns the call that does it on fixed memory without a query scale, for a tape.

    All tensors are contiguous. UnboundError where no CPU kernel runs.
    """
    check_bound(cpu.supports(qkv_TND, kv_SKD))
    return cpu.prepare(qkv_TND, cos_TD, sin_TD, kv_SKD, slots_T)


def describe(qkv_TND: torch.Tensor, kv_SKD: torch.Tensor) -> str:
    """Returns which implementation runs for such tensors, and why."""
    refused = cuda.supports(qkv_TND, kv_SKD)
    return runtime.describe(qkv_TND, refused) or jit.describe(cpu.supports(qkv_TND, kv_SKD))


__all__ = ["describe", "prepare", "query_scale", "rope_cos_sin", "rotate_and_store", "yarn_inv_freq"]
