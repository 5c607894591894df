"""What a softmax divides by."""

from __future__ import annotations

import torch
from trimode.kernels.softmax_total import cpu, reference


def softmax_total(logits_RV: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`(peak, total)`, each `[R]`: the largest logit, and the sum of `exp(logit - peak)`; see `reference`."""
    op = cpu.softmax_total if cpu.takes(logits_RV) else reference.softmax_total
    return op(logits_RV)


__all__ = ["softmax_total"]
