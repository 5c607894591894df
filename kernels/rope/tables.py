"""Rotary tables: static YaRN frequencies, cosines and sines by position, and the Llama-4 query scale.

Formulas: YaRN (Peng et al., arXiv 2309.00071) as the released model applies it.
T = tokens, D = head dim.
"""

from __future__ import annotations

import math

import torch


def yarn_inv_freq(
    head_dim: int, theta: float, factor: float, original_max_positions: int, beta_fast: float, beta_slow: float
) -> torch.Tensor:
    """Inverse frequencies `[D/2]` in float32: interpolated below the ramp, extrapolated above, blended between.

    Args:
        head_dim: D, even.
        theta: rotary base.
        factor: context extension factor.
        original_max_positions: context length before extension.
        beta_fast: rotations at the ramp's fast end.
        beta_slow: rotations at the ramp's slow end.
    """

    def dimension_of(rotations: float) -> float:
        return head_dim * math.log(original_max_positions / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    low = max(math.floor(dimension_of(beta_fast)), 0)
    high = min(math.ceil(dimension_of(beta_slow)), head_dim - 1)
    index = torch.arange(0, head_dim // 2, dtype=torch.float32)
    extrapolated = 1.0 / theta ** (2 * index / head_dim)
    interpolated = extrapolated / factor
    ramp = ((index - low) / max(high - low, 1e-3)).clamp(0, 1)
    return interpolated * ramp + extrapolated * (1 - ramp)


def rope_cos_sin(
    positions_T: torch.Tensor, inv_freq: torch.Tensor, attention_factor: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin `[T, D]` in float32 for absolute `positions_T` (int64 `[T]`), scaled by `attention_factor`."""
    angles_TD = positions_T.float().unsqueeze(-1) * torch.cat((inv_freq, inv_freq))
    return angles_TD.cos() * attention_factor, angles_TD.sin() * attention_factor


def query_scale(positions_T: torch.Tensor, beta: float, original_max_positions: int) -> torch.Tensor:
    """`1 + beta * ln(1 + floor(position / original))`, float32 `[T]`; exactly 1 below the original context."""
    return 1.0 + beta * torch.log1p(torch.div(positions_T, original_max_positions, rounding_mode="floor").float())
