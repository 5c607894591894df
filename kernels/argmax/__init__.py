"""The place of the largest value."""

from __future__ import annotations

import torch
from trimode.kernels.argmax import cpu, reference


def argmax(values_RV: torch.Tensor) -> torch.Tensor:
    """int64 `[R]`: where each row is largest, on a CPU the first such place; see `reference`."""
    op = cpu.argmax if cpu.takes(values_RV) else reference.argmax
    return op(values_RV)


__all__ = ["argmax"]
