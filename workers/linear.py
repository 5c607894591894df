"""Products with the model's weights: packed once for oneDNN in bfloat16 on a CPU, plain everywhere else.

A packed weight replaces the plain one, it is never a second copy. Knows nothing of layers, files or requests.
"""

from __future__ import annotations

import ctypes
import functools
import os

import torch
import torch.nn.functional as F

MANY_ROWS = 512
"""From here on unpacking a weight to float32 costs little beside the product itself."""
ROWS_AT_ONCE = 512
"""Rows whose float32 products exist at a time."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEEP_BYTES = 64 << 20


@functools.cache
def tune_allocator() -> None:
    """Makes memory of the process cheap to use again, once; acts on what is allocated later.

    Weights are streamed in every step, which 4 KB pages slow down: torch's CPU allocator is asked for huge ones, if it
    has not allocated yet (the environment has the last word). Large temporaries of a step stay with glibc for the next
    step, where by default each is returned to the system and every page of it faulted in again.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _KEEP_BYTES)
        mallopt(_M_TRIM_THRESHOLD, 2 * _KEEP_BYTES)


def pack_weight(weight: torch.Tensor) -> torch.Tensor:
    """The weight `[out, in]` as `linear` wants it; drop the plain one after the call.

    oneDNN's blocked layout only for bfloat16 on a CPU that has instructions for it, where its results equal those of
    `F.linear`; float32 keeps the plain layout, whose product differs in the last bits.
    """
    if weight.device.type != "cpu" or weight.dtype != torch.bfloat16:
        return weight
    if not (torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()):
        return weight
    packed: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, 1)
    return packed


def linear(x_TI: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """`x @ weight.T`, `[T, out]`, for a weight from `pack_weight` and any number of rows."""
    if not weight.is_mkldnn:
        return F.linear(x_TI, weight)
    if x_TI.shape[0] >= MANY_ROWS and float32_is_faster():
        return _unpacked(x_TI, weight)
    y_TO: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x_TI, weight, None, "none", [], "")
    return y_TO


def add_linear(residual_TO: torch.Tensor, x_TI: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """`residual + x @ weight.T`, `[T, out]`; with a packed weight the sum is taken before it is rounded."""
    if not weight.is_mkldnn:
        return residual_TO + F.linear(x_TI, weight)
    if x_TI.shape[0] >= MANY_ROWS and float32_is_faster():
        return _unpacked(x_TI, weight, residual_TO)
    y_TO: torch.Tensor = torch.ops.mkldnn._linear_pointwise.binary(x_TI, residual_TO, weight, None, "add")
    return y_TO


@functools.cache
def float32_is_faster() -> bool:
    """Whether many rows are multiplied faster in float32, the weight unpacked for the occasion.

    So it is on CPUs whose bfloat16 instructions run at a fraction of their rate, which is those without AMX. Asked of
    the CPU, not measured: two runs of one command must not differ in their last bits by luck.
    """
    return not torch.cpu._is_amx_tile_supported()


def _unpacked(x_TI: torch.Tensor, weight: torch.Tensor, residual_TO: torch.Tensor | None = None) -> torch.Tensor:
    dense = weight.to_dense(torch.float32)
    y_TO = x_TI.new_empty((x_TI.shape[0], weight.shape[0]))
    for start in range(0, x_TI.shape[0], ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        product = F.linear(x_TI[rows].float(), dense)
        if residual_TO is not None:
            product += residual_TO[rows]
        y_TO[rows] = product
    return y_TO
