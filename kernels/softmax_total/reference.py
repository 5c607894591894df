"""The maximum and the denominator of a softmax in plain torch.

R = rows, V = vocabulary.
"""

from __future__ import annotations

import torch


def softmax_total(logits_RV: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`(peak, total)`, each float32 `[R]`."""
    peak_R = logits_RV.amax(dim=-1)
    return peak_R, (logits_RV - peak_R.unsqueeze(1)).exp_().sum(dim=-1)
