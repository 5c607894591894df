"""Attention over a paged cache on a CPU: pages are read in place, without a gather and without a mask.

Keys are taken in blocks counted from key 0 with a running maximum (online softmax, Milakov and Gimelshein, arXiv
1805.02867). A block that a query does not see changes nothing, to the last bit. So a query's result does not depend on
its batch-mates or on how a prompt is sliced, and is the same decoded alone or verified in a block.

T = queries of all rows, H = query heads, K = KV heads, G = H / K, D = head dim, P = pages, S = tokens per page,
W = work items, L = lanes of a vector.
"""

from __future__ import annotations

import functools
from array import array
from collections.abc import Sequence

import torch
from trimode.kernels.llvm import jit
from trimode.kernels.llvm.jit import Call, ParallelKernel
from trimode.kernels.paged_attention.cpu_kernel import ROW_ARGUMENTS, Shape, kernel, tile
from trimode.kernels.paged_attention.ragged import Ragged

_PAIRS_DIMS = 32
"""Dims of a vector of pairs of bfloat16."""


def supports(q_THD: torch.Tensor, kv_PSKD: torch.Tensor, ragged: Ragged | None) -> str | None:
    """Returns None if `paged_attention` takes these tensors on this machine, otherwise the reason.

    Without `ragged` the answer is that for rows without mask words.
    """
    refused = jit.refusal(kv_PSKD, q_THD)
    if refused is not None:
        return refused
    if not kv_PSKD.is_contiguous():
        return "the cache is not contiguous"
    if kv_PSKD.shape[3] % jit.num_lanes():
        return f"head_dim {kv_PSKD.shape[3]} is no multiple of {jit.num_lanes()}"
    return None if ragged is None else refuses_rows(ragged)


def refuses_rows(ragged: Ragged) -> str | None:
    """Returns None if `paged_attention` takes such rows, otherwise the reason."""
    if ragged.mask_word_T is not None:
        return "mask words"
    return None if ragged.last_key_T.is_cpu else f"rows described on {ragged.last_key_T.device.type}"


def paged_attention(q_THD: torch.Tensor, kv_PSKD: torch.Tensor, ragged: Ragged, scale: float) -> torch.Tensor:
    """Softmax attention of every query over the keys of its row, `[T, H * D]` in the dtype of q."""
    num_tokens, num_heads, head_dim = q_THD.shape
    if q_THD.stride()[1:] != (head_dim, 1):
        # Not `contiguous()`: it lets any stride of a dimension of size 1 pass.
        q_THD = q_THD.clone(memory_format=torch.contiguous_format)
    out = q_THD.new_empty((num_tokens, num_heads * head_dim))
    call = prepare(q_THD, kv_PSKD, scale, out)
    set_rows([call], ragged, num_heads, kv_PSKD.shape[2] // 2)
    call.run()
    return out


def prepare(q_THD: torch.Tensor, kv_PSKD: torch.Tensor, scale: float, out_TA: torch.Tensor) -> Call:
    """Returns the call that writes the result into `out_TA`, which is contiguous. `set_rows` gives it its rows.

    The heads of a query stand one behind the other.
    """
    num_tokens, num_heads, head_dim = q_THD.shape
    page_size, num_kv_heads = kv_PSKD.shape[1], kv_PSKD.shape[2] // 2
    size, dot = q_THD.element_size(), jit.has_bf16_dot() and head_dim % _PAIRS_DIMS == 0
    shape = Shape(jit.num_lanes(), size, num_heads, num_kv_heads, head_dim, page_size, scale, dot and size == 2)
    of_rows = [0] * ROW_ARGUMENTS
    return kernel(shape).prepare(
        num_tokens * num_kv_heads, *of_rows, q_THD.data_ptr(), q_THD.stride(0), kv_PSKD.data_ptr(), out_TA.data_ptr()
    )


def set_rows(calls: Sequence[Call], ragged: Ragged, num_heads: int, num_kv_heads: int) -> None:
    """Gives calls their rows: as many queries as the calls were prepared for. They read `ragged` when they run."""
    work_W4 = ragged.derive(_work, tile(num_heads // num_kv_heads), num_kv_heads)
    pages = ragged.page_table_NP
    of_rows = (work_W4.data_ptr(), pages.data_ptr(), pages.shape[1], ragged.last_key_T.data_ptr())
    num_items, first, end = work_W4.shape[0], ParallelKernel.ARGUMENTS, ParallelKernel.ARGUMENTS + ROW_ARGUMENTS
    for call in calls:
        call.words[ParallelKernel.ITEMS] = num_items
        call.words[first:end] = of_rows


def _work(ragged: Ragged, most: int, num_kv_heads: int) -> torch.Tensor:
    """The work items of a step, int32 `[W, 4]`: row, KV head, first query and number of queries (at most `most`)."""
    return _work_of(tuple([len(row.last_keys) for row in ragged.rows]), most, num_kv_heads)


@functools.lru_cache(maxsize=64)
def _work_of(queries: tuple[int, ...], most: int, num_kv_heads: int) -> torch.Tensor:
    """The same from the number of queries of each row, which is often that of the step before."""
    items = array("i")
    first_token = 0
    for number, count in enumerate(queries):
        end = first_token + count
        for head in range(num_kv_heads):
            for first in range(first_token, end, most):
                items.extend((number, head, first, min(most, end - first)))
        first_token = end
    return torch.frombuffer(items, dtype=torch.int32).view(-1, 4) if items else torch.empty((0, 4), dtype=torch.int32)
