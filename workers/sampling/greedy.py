"""Greedy tokens and the decisions on them as pure functions of tensors: nothing is read back to the host.

A captured graph runs all of this; the sampler uses the same functions for its greedy rows.

R = rows, V = vocabulary, T = tokens of a forward, N = chunks, B = tokens of the longest chunk.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from trimode.kernels.best_token import best_token
from trimode.kernels.confidence_commit import confidence_commit
from trimode.kernels.prefix_verify import prefix_verify
from trimode.workers.decode.chunk import Chunk, Verify


@dataclass(frozen=True, slots=True)
class Greedy:
    """The most probable token of each row that is not the mask token. All tensors are `[R]`."""

    tokens: torch.Tensor
    """int64."""
    confidences: torch.Tensor
    """Probability of the token under the softmax of the raw logits. NaN if the logits are not finite."""
    logprobs: torch.Tensor
    """Its logarithm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What the chunks of a forward ask to have decided, on the device."""

    query_start_N1: torch.Tensor
    """int32 `[N + 1]`: the first token of each chunk."""
    wanted_T: torch.Tensor
    """int32: 1 for a token whose logits the chunk wants, else 0."""
    thresholds_N: torch.Tensor
    """float32, see `Commit`. Anything for a chunk without one."""
    num_best_N: torch.Tensor
    """int64, see `Commit`. Anything for a chunk without one."""
    verify_N: torch.Tensor
    """int32: 1 for a chunk with a `Verify`, else 0."""
    max_queries: int
    """B, or more."""


def is_greedy(chunk: Chunk) -> bool:
    """Returns True if `greedy` and `decide` do all that the sampler has to do for a chunk of a greedy request."""
    proposals = isinstance(chunk.selection, Verify) and chunk.selection.proposals is not None
    plain = chunk.history is None and chunk.forced_token is None and not chunk.targets and not chunk.num_top
    return plain and not chunk.keep_distribution and not proposals


def rate(
    logits_RV: torch.Tensor, tokens_R: torch.Tensor, peak_R: torch.Tensor, total_R: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the probability of each token and its logarithm, float32 `[R]` each.

    Args:
        logits_RV: raw logits.
        tokens_R: int64, none of them the mask token.
        peak_R: from `best_token` of the raw logits.
        total_R: the same.
    """
    below_peak_R = logits_RV.gather(1, tokens_R.unsqueeze(1)).squeeze(1) - peak_R
    return below_peak_R.exp() / total_R, below_peak_R - total_R.log()


def greedy(logits_RV: torch.Tensor, mask_token_id: int) -> Greedy:
    """Returns the greedy tokens of raw logits, in float32 or the dtype of the model."""
    best = best_token(logits_RV, suppressed=mask_token_id)
    below_peak_R = best.values_R - best.peak_R
    return Greedy(best.tokens_R, below_peak_R.exp() / best.total_R, below_peak_R - best.total_R.log())


def decide(found: Greedy, token_ids_T: torch.Tensor, rules: Rules) -> torch.Tensor:
    """Returns the decisions, float32 `[T]`.

    1 for a token to commit and 0 for the others in chunks with a `Commit`. The number of accepted tokens in every token
    of chunks with a `Verify`. Anything for tokens of other chunks or of none.

    Args:
        found: of all T tokens.
        token_ids_T: what ran: of a verified chunk the seed and the drafts.
        rules: what is to be decided.
    """
    start_N, end_N = rules.query_start_N1[:-1], rules.query_start_N1[1:]
    device, num_tokens = start_N.device, token_ids_T.shape[0]
    column_B = torch.arange(rules.max_queries, dtype=start_N.dtype, device=device)
    inside_NB = column_B < (end_N - start_N).unsqueeze(1)
    token_NB = (start_N.unsqueeze(1) + column_B).clamp(max=num_tokens - 1)
    masked_NB = inside_NB & (rules.wanted_T[token_NB] != 0)
    committed_NB = confidence_commit(found.confidences[token_NB], masked_NB, rules.thresholds_N, rules.num_best_N)
    lengths_N = (end_N - start_N).long()
    accepted_N = prefix_verify(found.tokens[token_NB], token_ids_T[token_NB], lengths_N)

    token_T = torch.arange(num_tokens, dtype=start_N.dtype, device=device)
    chunk_T = torch.searchsorted(end_N, token_T, right=True).clamp(max=start_N.shape[0] - 1)
    column_T = (token_T - start_N[chunk_T]).clamp(max=rules.max_queries - 1)
    committed_T = committed_NB[chunk_T, column_T].float()
    return torch.where(rules.verify_N[chunk_T] != 0, accepted_N[chunk_T].float(), committed_T)
