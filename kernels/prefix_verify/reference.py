"""Prefix verification: the longest prefix of the draft that the verifier agrees with, plus its own next token.

Knows nothing of how either side was sampled. Source: released remote code, `linear_spec_generate`.
R = blocks, B = positions of a block (seed and B - 1 drafts).
"""

from __future__ import annotations

import torch


def prefix_verify(verified_RB: torch.Tensor, block_RB: torch.Tensor, length_R: torch.Tensor) -> torch.Tensor:
    """Accepted tokens per block: leading i with verified[i] == block[i + 1], plus one.

    Args:
        verified_RB: int64 `[R, B]`: the verifier's token for the position after each block position.
        block_RB: int64 `[R, B]`: seed and drafts, padded.
        length_R: int64 `[R]`: true block length, >= 1.

    Returns:
        int64 `[R]`, in 1 .. length.

    Raises:
        ValueError: shapes that do not fit each other.
    """
    if verified_RB.shape != block_RB.shape or length_R.shape != verified_RB.shape[:1]:
        raise ValueError(f"prefix_verify: {tuple(verified_RB.shape)}, {tuple(block_RB.shape)}, {tuple(length_R.shape)}")
    drafts = block_RB.shape[1] - 1
    inside = torch.arange(drafts, device=block_RB.device) < (length_R - 1).unsqueeze(1)
    matches = (verified_RB[:, :-1] == block_RB[:, 1:]) & inside
    return matches.long().cumprod(dim=1).sum(dim=1) + 1
