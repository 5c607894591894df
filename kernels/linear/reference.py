"""The product with a weight matrix in plain torch, as the released model computes it, and with a quantised one.

T = rows, I = inputs, O = outputs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from trimode.kernels.linear.quantized import QuantizedWeight, Scheme, dequantize, quantize_rows


def product(x_TI: torch.Tensor, weight_OI: torch.Tensor, residual_TO: torch.Tensor | None = None) -> torch.Tensor:
    """`x @ weight.T (+ residual)`, `[T, O]` in the dtype of x; the sum with the residual is rounded a second time."""
    y_TO = F.linear(x_TI, weight_OI)
    return y_TO if residual_TO is None else residual_TO + y_TO


def quantized_product(
    x_TI: torch.Tensor, weight: QuantizedWeight, residual_TO: torch.Tensor | None = None
) -> torch.Tensor:
    """`x @ weight.T (+ residual)`, `[T, O]` in the dtype of x: the arithmetic that every implementation follows.

    w4a16: rows times the dequantised weight. fp8: rows are quantised to e4m3, each with its own scale; codes are
    multiplied, and the sum is scaled by row and by output. Both are summed in float32 and rounded once, after the
    residual is added.
    """
    if weight.scheme is Scheme.fp8:
        codes_TI, scales_T = quantize_rows(x_TI)
        y_TO = F.linear(codes_TI.float(), weight.codes.float()) * scales_T[:, None] * weight.scales
    else:
        y_TO = F.linear(x_TI.float(), dequantize(weight))
    return (y_TO if residual_TO is None else y_TO + residual_TO.float()).to(x_TI.dtype)
