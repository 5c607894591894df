"""The masked positions that a denoising pass commits.

R = blocks, B = positions of a block.
"""

from __future__ import annotations

import torch
from trimode.kernels.confidence_commit import cuda, reference
from trimode.kernels.cuda import runtime


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
        ValueError: shapes or dtypes that do not fit each other, or tensors on several devices.
    """
    tensors = (confidence_RB, masked_RB, threshold_R, num_best_R)
    shapes = confidence_RB.dim() == 2 and confidence_RB.shape == masked_RB.shape
    shapes = shapes and threshold_R.shape == num_best_R.shape == confidence_RB.shape[:1]
    dtypes = confidence_RB.is_floating_point() and masked_RB.dtype == torch.bool and threshold_R.is_floating_point()
    dtypes = dtypes and num_best_R.dtype == torch.int64
    if not shapes or not dtypes or len({tensor.device for tensor in tensors}) > 1:
        names = ("confidence", "masked", "threshold", "num_best")
        got = ", ".join(
            f"{name} {tensor.dtype} {list(tensor.shape)} on {tensor.device}"
            for name, tensor in zip(names, tensors, strict=True)
        )
        raise ValueError(
            f"confidence_commit: got {got}; expected float [R, B], bool [R, B], float [R] and int64 [R] on one device"
        )
    run = cuda.confidence_commit if cuda.supports(*tensors) is None else reference.confidence_commit
    return run(*tensors)


def describe(confidence_RB: torch.Tensor) -> str:
    """Returns which implementation runs for such confidences, and why."""
    refused = cuda.supports(confidence_RB)
    return runtime.describe(confidence_RB, refused) or "reference: the only implementation for a CPU"
