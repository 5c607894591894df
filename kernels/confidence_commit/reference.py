"""Confidence commit in plain torch. Source: released remote code, block diffusion `generate`.

R = blocks, B = positions of a block.
"""

from __future__ import annotations

import torch


def confidence_commit(
    confidence_RB: torch.Tensor, masked_RB: torch.Tensor, threshold_R: torch.Tensor, num_best_R: torch.Tensor
) -> torch.Tensor:
    """bool `[R, B]`: masked, and among the `num_best` of highest confidence or at least at `threshold`."""
    score_RB = confidence_RB.masked_fill(~masked_RB, float("-inf"))
    order_RB = score_RB.argsort(dim=1, descending=True, stable=True)
    rank_RB = torch.empty_like(order_RB).scatter_(
        1, order_RB, torch.arange(order_RB.shape[1], device=order_RB.device).expand_as(order_RB)
    )
    confident_RB = confidence_RB >= threshold_R.to(confidence_RB.dtype).unsqueeze(1)
    return masked_RB & (confident_RB | (rank_RB < num_best_R.unsqueeze(1)))
