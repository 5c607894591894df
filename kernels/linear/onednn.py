"""The product with a bfloat16 weight by oneDNN, which uses AMX where the CPU has it; the sum is rounded once.

T = rows, I = inputs, O = outputs.
"""

from __future__ import annotations

import functools

import torch


def supports(weight_OI: torch.Tensor) -> str | None:
    """Returns None if `pack` takes this weight on this machine, otherwise the reason."""
    if not weight_OI.is_cpu:
        return f"no oneDNN for {weight_OI.device.type}"
    if weight_OI.dtype != torch.bfloat16:
        return f"oneDNN is used for torch.bfloat16 only, got {weight_OI.dtype}"
    return None if _has_bf16() else "a CPU without bfloat16 instructions"


def pack(weight_OI: torch.Tensor) -> torch.Tensor:
    """Returns the weight in oneDNN's own layout."""
    packed: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(weight_OI, 1)
    return packed


def product(x_TI: torch.Tensor, packed: torch.Tensor, residual_TO: torch.Tensor | None = None) -> torch.Tensor:
    """`x @ weight.T (+ residual)`, `[T, O]` in bfloat16."""
    ops = torch.ops.mkldnn._linear_pointwise
    y_TO: torch.Tensor
    if residual_TO is None:
        y_TO = ops(x_TI, packed, None, "none", [], "")
    else:
        y_TO = ops.binary(x_TI, residual_TO, packed, None, "add")
    return y_TO


@functools.cache
def has_amx() -> bool:
    """True if the CPU multiplies bfloat16 tiles (AMX), a rate that no vector instructions reach."""
    return _has_bf16() and bool(torch.cpu._is_amx_tile_supported())


@functools.cache
def _has_bf16() -> bool:
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
