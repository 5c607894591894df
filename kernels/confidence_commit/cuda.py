"""Confidence commit on a GPU: one program per block. A position's rank is the number of positions before it.

R = blocks, B = positions of a block.
"""

from __future__ import annotations

import torch
from trimode.kernels.cuda import runtime
from trimode.kernels.cuda.runtime import jit, tl

MAX_BLOCK = 1024
"""Most positions of a block: the work grows with their square."""


def supports(confidence_RB: torch.Tensor, *others: torch.Tensor) -> str | None:
    """Returns None if `confidence_commit` takes these tensors here, otherwise the reason."""
    if refused := runtime.refusal(confidence_RB, *others):
        return refused
    if confidence_RB.dtype not in runtime.DTYPES:
        return f"no GPU kernel for {confidence_RB.dtype}"
    if not all(tensor.is_contiguous() for tensor in (confidence_RB, *others)):
        return "an input is not contiguous"
    return None if confidence_RB.shape[1] <= MAX_BLOCK else f"a block of {confidence_RB.shape[1]} is above {MAX_BLOCK}"


def confidence_commit(
    confidence_RB: torch.Tensor, masked_RB: torch.Tensor, threshold_R: torch.Tensor, num_best_R: torch.Tensor
) -> torch.Tensor:
    """bool `[R, B]`: masked, and among the `num_best` of highest confidence or at least at `threshold`."""
    num_blocks, width = confidence_RB.shape
    committed_RB = torch.empty_like(masked_RB)
    block = max(16, 1 << max(0, width - 1).bit_length())
    others = min(block, max(1, 4096 // block))
    runtime.launch(
        _confidence_commit, (num_blocks if width else 0,),
        confidence_RB, masked_RB, threshold_R, num_best_R, committed_RB, width,
        BLOCK=block, OTHERS=others, num_warps=max(1, block * others // 1024),
    )  # fmt: skip
    return committed_RB


@jit
def _score(confidence_at, masked_at, place, inside):
    """Confidences, with -inf where the position is not masked and NaN kept: it ranks above every number."""
    confidence = tl.load(confidence_at + place, mask=inside, other=float("-inf")).to(tl.float32)
    masked = tl.load(masked_at + place, mask=inside, other=0) != 0
    return tl.where(masked, confidence, float("-inf")), masked


@jit(do_not_specialize=["width"])
def _confidence_commit(
    confidence_at, masked_at, threshold_at, num_best_at, committed_at, width, BLOCK: tl.constexpr, OTHERS: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    start = row * width
    place = tl.arange(0, BLOCK)
    inside = place < width
    score, masked = _score(confidence_at + start, masked_at + start, place, inside)
    is_nan = score != score
    rank = tl.zeros([BLOCK], tl.int32)
    for first in range(0, width, OTHERS):
        other = first + tl.arange(0, OTHERS)
        theirs, _ = _score(confidence_at + start, masked_at + start, other, other < width)
        their_nan = (theirs != theirs)[None, :]
        higher = (theirs[None, :] > score[:, None]) | (their_nan & ~is_nan[:, None])
        equal = (theirs[None, :] == score[:, None]) | (their_nan & is_nan[:, None])
        before = higher | (equal & (other[None, :] < place[:, None]))
        rank += tl.sum((before & (other < width)[None, :]).to(tl.int32), axis=1)
    # Compared in the dtype of the confidences.
    threshold = tl.load(threshold_at + row).to(confidence_at.dtype.element_ty).to(tl.float32)
    chosen = masked & ((score >= threshold) | (rank < tl.load(num_best_at + row)))
    tl.store(committed_at + start + place, chosen, mask=inside)
