"""The place of the largest value."""

from __future__ import annotations

import torch
from trimode.kernels.argmax import cpu


def argmax(values_RV: torch.Tensor) -> torch.Tensor:
    """int64 `[R]`: where each row is largest. On a CPU the first such place; elsewhere any."""
    return cpu.argmax(values_RV) if cpu.takes(values_RV) else values_RV.argmax(dim=-1)


__all__ = ["argmax"]
