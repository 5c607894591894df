"""The best token and the softmax of rows of logits in plain torch.

R = rows, V = vocabulary.
"""

from __future__ import annotations

import torch


def best_token(
    logits_RV: torch.Tensor, suppressed: int | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """`(tokens, values, peak, total)`: int64 `[R]` and three times float32 `[R]`."""
    logits_RV = logits_RV.float()
    allowed_RV = logits_RV
    if suppressed is not None:
        index = torch.arange(logits_RV.shape[1], device=logits_RV.device)
        allowed_RV = logits_RV.masked_fill(index == suppressed, float("-inf"))
    token_R = allowed_RV.argmax(dim=-1)
    peak_R = logits_RV.amax(dim=-1)
    total_R = (logits_RV - peak_R.unsqueeze(1)).exp_().sum(dim=-1)
    return token_R, logits_RV.gather(1, token_R.unsqueeze(1)).squeeze(1), peak_R, total_R
