"""Products with the model's weights: packed once for oneDNN in bfloat16 on a CPU, plain everywhere else.

A packed weight replaces the plain one, it is never a second copy. Knows nothing of layers, files or requests.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


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
    y_TO: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x_TI, weight, None, "none", [], "")
    return y_TO


def add_linear(residual_TO: torch.Tensor, x_TI: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """`residual + x @ weight.T`, `[T, out]`; with a packed weight the sum is taken before it is rounded."""
    if not weight.is_mkldnn:
        return residual_TO + F.linear(x_TI, weight)
    y_TO: torch.Tensor = torch.ops.mkldnn._linear_pointwise.binary(x_TI, residual_TO, weight, None, "add")
    return y_TO
