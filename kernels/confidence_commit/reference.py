"""Confidence commit: the best masked positions always, and every other one that is confident enough.

Knows nothing of tokens or modes. One rule serves all: threshold unmasking (k = 1), the fixed quota (threshold = inf),
and a one-pass draft (threshold = 0). Source: released remote code, block diffusion `generate`.
R = blocks, B = positions.
"""

from __future__ import annotations

import torch


def confidence_commit(
    confidence_RB: torch.Tensor, masked_RB: torch.Tensor, threshold_R: torch.Tensor, num_best_R: torch.Tensor
) -> torch.Tensor:
    """Positions to commit: masked, and among the `num_best` of highest confidence or at least at `threshold`.

    Args:
        confidence_RB: float `[R, B]`; ignored where not masked.
        masked_RB: bool `[R, B]`.
        threshold_R: float `[R]`, inf for none; compared in the dtype of the confidences.
        num_best_R: int64 `[R]`, >= 1: positions committed whatever their confidence. Ties go to the lower position.

    Returns:
        bool `[R, B]`.

    Raises:
        ValueError: shapes that do not fit each other.
    """
    if confidence_RB.shape != masked_RB.shape or threshold_R.shape != num_best_R.shape:
        raise ValueError(f"confidence_commit: {tuple(confidence_RB.shape)}, {tuple(masked_RB.shape)}")
    score_RB = confidence_RB.masked_fill(~masked_RB, float("-inf"))
    order_RB = score_RB.argsort(dim=1, descending=True, stable=True)
    rank_RB = torch.empty_like(order_RB).scatter_(
        1, order_RB, torch.arange(order_RB.shape[1], device=order_RB.device).expand_as(order_RB)
    )
    confident_RB = confidence_RB >= threshold_R.to(confidence_RB.dtype).unsqueeze(1)
    return masked_RB & (confident_RB | (rank_RB < num_best_R.unsqueeze(1)))
