"""Root-mean-square normalisation."""

from __future__ import annotations

import torch
from trimode.kernels.rms_norm import cpu, reference


def rms_norm(x_TH: torch.Tensor, weight_H: torch.Tensor, eps: float) -> torch.Tensor:
    """`x / sqrt(mean(x^2) + eps) * weight` over the last dimension; see `reference`."""
    op = cpu.rms_norm if cpu.takes(x_TH, weight_H) else reference.rms_norm
    return op(x_TH, weight_H, eps)


__all__ = ["rms_norm"]
