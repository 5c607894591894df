"""Sampling distributions: penalties, temperature, top-k, top-p, min-p.

A row's result does not depend on the other rows, to the last bit. R = rows, V = vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import torch


class Filters(NamedTuple):
    """What each row keeps of its distribution, each `[R]`."""

    top_k: torch.Tensor
    """int64: the most probable so many; 0 = all."""
    top_p: torch.Tensor
    """float32: the most probable ones, until their mass reaches it; 1 = all."""
    min_p: torch.Tensor
    """float32: those at least so probable, relative to the best; 0 = all."""


class Penalties(NamedTuple):
    """What acts on single logits. One entry for each such token of each row, no token twice in a row."""

    rows: torch.Tensor
    """int64."""
    tokens: torch.Tensor
    """int64."""
    bias: torch.Tensor
    """float32: added first."""
    penalties: torch.Tensor
    """float32: then divides a positive logit and multiplies a negative one (Keskar et al., arXiv 1909.05858)."""
    taken: torch.Tensor
    """float32: taken off last."""


def apply_penalties(logits_RV: torch.Tensor, given: Penalties) -> None:
    """Changes raw logits in place."""
    values = logits_RV[given.rows, given.tokens] + given.bias
    values = torch.where(values > 0, values / given.penalties, values * given.penalties) - given.taken
    logits_RV.index_put_((given.rows, given.tokens), values.to(logits_RV.dtype))


def filtered_probs(
    logits_RV: torch.Tensor, temperature_R: torch.Tensor, filters: Filters | None = None
) -> torch.Tensor:
    """Returns tempered and filtered probabilities `[R, V]` in float32.

    Args:
        logits_RV: float32.
        temperature_R: float32, above 0.
        filters: None = no row has any.
    """
    temperature = temperature_R.unsqueeze(1)
    # Below the peak first: a logit divided by a tiny temperature may be infinite, and the softmax NaN.
    below_peak = logits_RV - logits_RV.amax(dim=-1, keepdim=True)
    probs = (below_peak / temperature.clamp_min(torch.finfo(temperature.dtype).tiny)).softmax(dim=-1)
    if filters is None:
        return probs
    vocab = probs.shape[1]
    top_k = torch.where(filters.top_k > 0, filters.top_k, vocab).unsqueeze(1)
    top_p, min_p = filters.top_p.unsqueeze(1), filters.min_p.unsqueeze(1)
    ordered, order = probs.sort(dim=-1, descending=True, stable=True)
    rank = torch.arange(vocab, device=probs.device)
    # A token stays while the mass before it is below top_p, so the best one always stays.
    keep = (rank < top_k) & ((ordered.cumsum(dim=-1) - ordered) < top_p) & (ordered >= min_p * ordered[:, :1])
    keep.select(1, 0).fill_(True)
    kept = ordered * keep
    # A running sum, because torch splits `sum` over threads if there is only one row, which changes its last bit.
    filtered = torch.zeros_like(probs).scatter(1, order, kept / kept.cumsum(dim=-1)[:, -1:])
    plain = (top_k == vocab) & (top_p >= 1.0) & (min_p <= 0.0)  # rows without filters stay as they are, to the bit
    return torch.where(plain, probs, filtered)
