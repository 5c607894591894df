"""RMSNorm in plain torch: in float32, cast back before the weight is applied, as the released model does.

T = rows, H = hidden.
"""

from __future__ import annotations

import torch


def rms_norm(x_TH: torch.Tensor, weight_H: torch.Tensor, eps: float) -> torch.Tensor:
    """`x / sqrt(mean(x^2) + eps) * weight`, `[T, H]` in the dtype of x."""
    if x_TH.dtype == torch.float32:
        return torch.nn.functional.rms_norm(x_TH, weight_H.shape, weight_H, eps)
    x_f32 = x_TH.float()
    normed = x_f32 * torch.rsqrt(x_f32.pow(2).mean(-1, keepdim=True) + eps)
    return normed.to(x_TH.dtype).mul_(weight_H)
