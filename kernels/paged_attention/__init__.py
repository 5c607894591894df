"""Attention of new tokens over a paged cache: one ragged call for rows of any number of queries and keys.

T = tokens (queries) of all rows, H = query heads, K = KV heads, D = head dim, P = pages, S = tokens per page.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from trimode.kernels.cuda import runtime
from trimode.kernels.llvm import jit
from trimode.kernels.llvm.jit import Call
from trimode.kernels.llvm.tape import check_bound
from trimode.kernels.paged_attention import cpu, cuda, device_rows, reference
from trimode.kernels.paged_attention.ragged import (
    Ragged,
    RaggedSizes,
    Row,
    describe_rows,
    sizes_of,
    view_rows,
    write_rows,
)


def paged_attention(q_THD: torch.Tensor, kv_PSKD: torch.Tensor, ragged: Ragged, scale: float) -> torch.Tensor:
    """Returns the softmax attention of every query over the keys of its row that it sees.

    Args:
        q_THD: queries `[T, H, D]`, row after row.
        kv_PSKD: the cache `[P, S, 2 * K, D]` in the dtype of q, K heads before V heads. All of it must be finite, also
            what no query sees; the GPU kernel alone allows anything in places that no query of the row sees.
            Query head h reads KV head `h // (H / K)`.
        ragged: which keys each query sees, from `describe_rows`.
        scale: factor of the scores before the softmax, above 0.

    Returns:
        `[T, H * D]` in the dtype of q.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit each other.
    """
    fits = q_THD.dim() == 3 and kv_PSKD.dim() == 4 and q_THD.dtype == kv_PSKD.dtype
    if fits:
        num_tokens, num_heads, head_dim = q_THD.shape
        _, page_size, num_kv, kv_dim = kv_PSKD.shape
        fits = num_kv % 2 == 0 and num_heads % (num_kv // 2) == 0 and kv_dim == head_dim
        fits = fits and num_tokens == ragged.num_tokens and page_size == ragged.page_size
    if not fits:
        raise ValueError(
            f"paged_attention: got q {q_THD.dtype} {list(q_THD.shape)}, cache {kv_PSKD.dtype} {list(kv_PSKD.shape)}; "
            f"expected [{ragged.num_tokens}, H, D] and [P, {ragged.page_size}, 2K, D] of one dtype, H a multiple of K"
        )
    if not scale > 0:
        raise ValueError(f"paged_attention: got scale {scale}, expected a number above 0")
    devices = [tensor.device for tensor in (q_THD, kv_PSKD, ragged.query_start_N1)]
    if len(set(devices)) > 1:
        raise ValueError(
            f"paged_attention: got q on {devices[0]}, cache on {devices[1]}, rows on {devices[2]}; expected one device"
        )
    if cuda.supports(q_THD, kv_PSKD, ragged) is None:
        return cuda.paged_attention(q_THD, kv_PSKD, ragged, scale)
    if ragged.num_tokens and not ragged.rows:
        return device_rows.paged_attention(q_THD, kv_PSKD, ragged, scale)
    run = cpu.paged_attention if cpu.supports(q_THD, kv_PSKD, ragged) is None else reference.paged_attention
    return run(q_THD, kv_PSKD, ragged, scale)


def prepare(q_THD: torch.Tensor, kv_PSKD: torch.Tensor, scale: float, out_TA: torch.Tensor) -> Call:
    """Returns the call that computes the same on fixed memory, for a tape. It runs after `set_rows`.

    The heads of a query stand one behind the other. UnboundError where no CPU kernel runs.
    """
    check_bound(cpu.supports(q_THD, kv_PSKD, None))
    return cpu.prepare(q_THD, kv_PSKD, scale, out_TA)


def has_rows(ragged: Ragged) -> bool:
    """True if prepared calls can be given these rows."""
    return bool(ragged.rows) and cpu.refuses_rows(ragged) is None


def set_rows(calls: Sequence[Call], ragged: Ragged, num_heads: int, num_kv_heads: int) -> None:
    """Gives prepared calls the rows of a step, which `ragged` keeps.

    Args:
        calls: prepared for as many queries.
        ragged: the rows; `has_rows` is true.
        num_heads: query heads of the calls.
        num_kv_heads: their KV heads.
    """
    cpu.set_rows(calls, ragged, num_heads, num_kv_heads)


def describe(q_THD: torch.Tensor, kv_PSKD: torch.Tensor) -> str:
    """Returns which implementation runs for such tensors (without mask words), and why."""
    refused = cuda.supports(q_THD, kv_PSKD, None)
    return runtime.describe(q_THD, refused) or jit.describe(cpu.supports(q_THD, kv_PSKD, None))


__all__ = [
    "Ragged",
    "RaggedSizes",
    "Row",
    "describe",
    "describe_rows",
    "has_rows",
    "paged_attention",
    "prepare",
    "set_rows",
    "sizes_of",
    "view_rows",
    "write_rows",
]
