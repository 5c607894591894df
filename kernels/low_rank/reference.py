"""A low-rank product added to some rows, in plain torch (LoRA; Hu et al., arXiv 2106.09685).

T = tokens, I = inputs, H = outputs, R = rank.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def add_low_rank(
    y_TH: torch.Tensor, x_TI: torch.Tensor, a_RI: torch.Tensor, b_HR: torch.Tensor, scale: float, on_T: torch.Tensor
) -> None:
    """`y += scale * (x @ a.T) @ b.T` in the rows where `on` is not 0, in place."""
    added_TH = y_TH + F.linear(F.linear(x_TI, a_RI), b_HR) * scale
    y_TH.copy_(torch.where(on_T.unsqueeze(1) != 0, added_TH, y_TH))
