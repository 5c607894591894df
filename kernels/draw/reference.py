"""Draws by inverse CDF, and the verification of drafts by rejection sampling, in plain torch.

Rejection sampling: Leviathan et al., arXiv 2211.17192; Chen et al., arXiv 2302.01318.

R = rows or blocks, B = positions of a block, D = drafts of a block (B - 1), V = vocabulary.
"""

from __future__ import annotations

import torch


def draw(weights_RV: torch.Tensor, numbers_R: torch.Tensor) -> torch.Tensor:
    """int64 `[R]`: one index per row by inverse CDF, summed in float64; never one of weight 0."""
    weights = weights_RV.double()
    cdf = weights.cumsum(dim=-1)
    if cdf.device.type != "cpu":
        # A sum in parallel rounds differently from entry to entry, but only a positive weight may raise the CDF.
        cdf = cdf.masked_fill(weights <= 0, 0.0).cummax(dim=-1).values
    total = cdf[:, -1:].contiguous()
    index = torch.searchsorted(cdf, numbers_R.unsqueeze(1) * total, right=True)
    # The product may round up to the total, which no entry exceeds: the last positive weight is where it is reached.
    last = torch.searchsorted(cdf, total)
    return torch.minimum(index, last).squeeze(1).clamp(max=weights_RV.shape[1] - 1)


def residual(p_RV: torch.Tensor, q_RV: torch.Tensor) -> torch.Tensor:
    """`[R, V]`: the positive part of p - q; p itself where no token has p above q."""
    above = (p_RV - q_RV).clamp_min(0)
    return torch.where((above > 0).any(dim=-1, keepdim=True), above, p_RV)


def is_accepted(
    p_RV: torch.Tensor, q_RV: torch.Tensor, drafts_R: torch.Tensor, chances_R: torch.Tensor
) -> torch.Tensor:
    """bool `[R]`: True with probability min(1, p / q) of the draft."""
    index = drafts_R.unsqueeze(1)
    return chances_R * q_RV.gather(1, index).squeeze(1) < p_RV.gather(1, index).squeeze(1)


def verify_by_rejection(
    p_RBV: torch.Tensor,
    q_RDV: torch.Tensor,
    block_RB: torch.Tensor,
    length_R: torch.Tensor,
    chances_RD: torch.Tensor,
    numbers_RB: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`(accepted, token)`, int64 `[R]` each."""
    num_blocks, width, vocab = p_RBV.shape
    drafts = width - 1
    inside_RD = torch.arange(drafts, device=p_RBV.device) < (length_R - 1).unsqueeze(1)
    taken_RD = is_accepted(
        p_RBV[:, :drafts].reshape(-1, vocab),
        q_RDV.reshape(-1, vocab),
        block_RB[:, 1:].masked_fill(~inside_RD, 0).reshape(-1),
        chances_RD.reshape(-1),
    ).view(num_blocks, drafts)
    last_R = (taken_RD & inside_RD).long().cumprod(dim=1).sum(dim=1)
    block_R = torch.arange(num_blocks, device=p_RBV.device)
    weights_RV = p_RBV[block_R, last_R]
    if drafts:
        above_RV = residual(weights_RV, q_RDV[block_R, last_R.clamp(max=drafts - 1)])
        weights_RV = torch.where((last_R < length_R - 1).unsqueeze(1), above_RV, weights_RV)
    return last_R + 1, draw(weights_RV, numbers_RB[block_R, last_R])
