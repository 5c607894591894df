"""Argmax of rows in plain torch.

R = rows, V = values of a row.
"""

from __future__ import annotations

import torch


def argmax(values_RV: torch.Tensor) -> torch.Tensor:
    """int64 `[R]`: the index of the largest value of each row; any of them if several are equal."""
    return values_RV.argmax(dim=-1)
