"""The maximum and the denominator of a softmax.

R = rows, V = vocabulary.
"""

from __future__ import annotations

import torch
from trimode.kernels.llvm import jit
from trimode.kernels.softmax_total import cpu, reference


def softmax_total(logits_RV: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the largest logit of each row and the sum of `exp(logit - largest)`.

    Probabilities are `exp(logit - peak) / total`. That form keeps confidences near 1 apart, where
    `exp(logit - logsumexp)` rounds them together.

    Args:
        logits_RV: float32 `[R, V]`, V >= 1.

    Returns:
        `(peak, total)`, each float32 `[R]`. NaN in a row makes its total NaN.

    Raises:
        ValueError: the logits are not a float32 matrix with at least one column.
    """
    if logits_RV.dim() != 2 or logits_RV.dtype != torch.float32 or not logits_RV.shape[1]:
        raise ValueError(
            f"softmax_total: got {logits_RV.dtype} {list(logits_RV.shape)}, expected float32 [R, V] with V >= 1"
        )
    run = cpu.softmax_total if cpu.supports(logits_RV) is None else reference.softmax_total
    return run(logits_RV)


def describe(logits_RV: torch.Tensor) -> str:
    """Returns which implementation runs for such logits, and why."""
    return jit.describe(cpu.supports(logits_RV))
