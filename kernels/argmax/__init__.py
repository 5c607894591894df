"""Argmax of rows.

R = rows, V = values of a row.
"""

from __future__ import annotations

import torch
from trimode.kernels.argmax import cpu, reference
from trimode.kernels.llvm import jit


def argmax(values_RV: torch.Tensor) -> torch.Tensor:
    """Returns the index of the largest value of each row.

    Args:
        values_RV: float `[R, V]`, V >= 1.

    Returns:
        int64 `[R]`. Among equal values the CPU kernel takes the first; elsewhere it is torch's choice. A row that holds
        NaN gives any index of the row.

    Raises:
        ValueError: the values are not a float matrix with at least one column.
    """
    if values_RV.dim() != 2 or not values_RV.is_floating_point() or not values_RV.shape[1]:
        raise ValueError(f"argmax: got {values_RV.dtype} {list(values_RV.shape)}, expected float [R, V] with V >= 1")
    run = cpu.argmax if cpu.supports(values_RV) is None else reference.argmax
    return run(values_RV)


def describe(values_RV: torch.Tensor) -> str:
    """Returns which implementation runs for such values, and why."""
    return jit.describe(cpu.supports(values_RV))
