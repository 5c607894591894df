"""Argmax of rows.

R = rows, V = values of a row.
"""

from __future__ import annotations

import torch


def argmax(values_RV: torch.Tensor) -> torch.Tensor:
    """int64 `[R]`: where each row is largest; of equal places any."""
    return values_RV.argmax(dim=-1)
