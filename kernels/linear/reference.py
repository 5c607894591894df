"""The product with a weight matrix, summed in float32.

T = rows, I = inputs, O = outputs.
"""

from __future__ import annotations

import torch


def linear(x_TI: torch.Tensor, weight_OI: torch.Tensor, residual_TO: torch.Tensor | None = None) -> torch.Tensor:
    """`x @ weight.T (+ residual)`, `[T, O]` in the dtype of x, rounded once."""
    y_TO = x_TI.float() @ weight_OI.float().T
    return (y_TO if residual_TO is None else y_TO + residual_TO.float()).to(x_TI.dtype)
