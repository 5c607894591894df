"""The two numbers that turn logits into probabilities.

R = rows, V = vocabulary.
"""

from __future__ import annotations

import torch


def softmax_total(logits_RV: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`(peak, total)`, float32 `[R]`, of float32 logits: probabilities are `exp(logit - peak) / total`.

    That form keeps confidences near 1 apart, where `exp(logit - logsumexp)` rounds them together.
    """
    peak_R = logits_RV.amax(dim=-1)
    return peak_R, (logits_RV - peak_R.unsqueeze(1)).exp_().sum(dim=-1)
