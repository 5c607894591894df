"""The product with a weight matrix in plain torch, as the released model computes it.

T = rows, I = inputs, O = outputs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def product(x_TI: torch.Tensor, weight_OI: torch.Tensor, residual_TO: torch.Tensor | None = None) -> torch.Tensor:
    """`x @ weight.T (+ residual)`, `[T, O]` in the dtype of x; the sum with the residual is rounded a second time."""
    y_TO = F.linear(x_TI, weight_OI)
    return y_TO if residual_TO is None else residual_TO + y_TO
