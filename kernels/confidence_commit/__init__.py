"""The masked positions that a denoising pass commits.

R = blocks, B = positions of a block.
"""

from __future__ import annotations

import torch
from trimode.kernels.confidence_commit import reference


def confidence_commit(
    confidence_RB: torch.Tensor, masked_RB: torch.Tensor, threshold_R: torch.Tensor, num_best_R: torch.Tensor
) -> torch.Tensor:
    """Returns the positions to commit: masked, and among the `num_best` most confident or at least at `threshold`.

    One rule covers threshold unmasking (num_best = 1), the fixed quota (threshold = inf) and a one-pass draft
    (threshold = 0).

    Args:
        confidence_RB: float `[R, B]`; ignored where not masked.
        masked_RB: bool `[R, B]`.
        threshold_R: float `[R]`, inf for none; compared in the dtype of the confidences.
        num_best_R: int64 `[R]`, >= 1: positions committed even below the threshold. Ties go to the lower position.

    Returns:
        bool `[R, B]`.

    Raises:
        ValueError: shapes that do not fit each other, or a mask that is not bool.
    """
    fits = confidence_RB.dim() == 2 and confidence_RB.shape == masked_RB.shape and masked_RB.dtype == torch.bool
    if not fits or not threshold_R.shape == num_best_R.shape == confidence_RB.shape[:1]:
        raise ValueError(
            f"confidence_commit: got confidence {list(confidence_RB.shape)}, masked {masked_RB.dtype} "
            f"{list(masked_RB.shape)}, threshold {list(threshold_R.shape)}, num_best {list(num_best_R.shape)}; "
            "expected [R, B], bool [R, B], [R] and [R]"
        )
    return reference.confidence_commit(confidence_RB, masked_RB, threshold_R, num_best_R)


def describe() -> str:
    """Returns which implementation runs, and why."""
    return "reference: the only implementation"
