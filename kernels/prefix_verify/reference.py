"""Prefix verification in plain torch. Source: released remote code, `linear_spec_generate`.

R = blocks, B = positions of a block (seed and B - 1 drafts).
"""

from __future__ import annotations

import torch


def prefix_verify(verified_RB: torch.Tensor, block_RB: torch.Tensor, length_R: torch.Tensor) -> torch.Tensor:
    """int64 `[R]`: one plus the number of leading i with `verified[i] == block[i + 1]`."""
    drafts = block_RB.shape[1] - 1
    inside = torch.arange(drafts, device=block_RB.device) < (length_R - 1).unsqueeze(1)
    matches = (verified_RB[:, :-1] == block_RB[:, 1:]) & inside
    return matches.long().cumprod(dim=1).sum(dim=1) + 1
