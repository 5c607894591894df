"""Rotary embedding, NeoX half-split.

T = tokens, H = heads, D = head dim.
"""

from __future__ import annotations

import torch


def apply_rope(
    x_THD: torch.Tensor, cos_TD: torch.Tensor, sin_TD: torch.Tensor, out: torch.Tensor | None = None
) -> torch.Tensor:
    """Rotates the heads of `x_THD` `[T, H, D]` by `cos_TD`, `sin_TD` `[T, D]` (same dtype as x); `out` may be x itself.

    Raises:
        ValueError: the tables do not fit x.
    """
    if cos_TD.shape != (x_THD.shape[0], x_THD.shape[2]) or cos_TD.shape != sin_TD.shape:
        raise ValueError(f"apply_rope: x {tuple(x_THD.shape)}, cos {tuple(cos_TD.shape)}, sin {tuple(sin_TD.shape)}")
    first, second = x_THD.chunk(2, dim=-1)
    rotated = torch.cat((-second, first), dim=-1).mul_(sin_TD.unsqueeze(1))
    return torch.mul(x_THD, cos_TD.unsqueeze(1), out=out).add_(rotated)
