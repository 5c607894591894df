"""RMSNorm in float32, cast back before the weight is applied, as the released model does.

Knows nothing of where in the network it stands.
"""

from __future__ import annotations

import torch


def rms_norm(x_TH: torch.Tensor, weight_H: torch.Tensor, eps: float) -> torch.Tensor:
    """`x / sqrt(mean(x^2) + eps) * weight` over the last dimension.

    Args:
        x_TH: `[T, H]`, any float dtype.
        weight_H: `[H]`.
        eps: added to the mean square.

    Returns:
        `[T, H]` in the dtype of x.

    Raises:
        ValueError: the weight does not have H elements.
    """
    if weight_H.shape != x_TH.shape[-1:]:
        raise ValueError(f"rms_norm: x {tuple(x_TH.shape)}, weight {tuple(weight_H.shape)}")
    if x_TH.dtype == torch.float32:
        return torch.nn.functional.rms_norm(x_TH, weight_H.shape, weight_H, eps)
    x_f32 = x_TH.float()
    normed = x_f32 * torch.rsqrt(x_f32.pow(2).mean(-1, keepdim=True) + eps)
    return normed.to(x_TH.dtype).mul_(weight_H)
