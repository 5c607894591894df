"""Draws by inverse CDF and the verification of drafts by rejection sampling on a GPU.

A row is cut into splits of a fixed length, whose sums are float64. Then one program per row finds the split that the
random number falls into, and the token in it, from sums that are added in a fixed order. Sums in parallel may round
differently from entry to entry, so a token is taken only if its own weight is positive.

R = rows or blocks, B = positions of a block, D = drafts of a block (B - 1), V = vocabulary, S = splits of a row.
"""

from __future__ import annotations

import torch
from trimode.kernels.cuda import runtime
from trimode.kernels.cuda.runtime import jit, tl

SPLIT = 1024
"""Weights of a split."""
MAX_BLOCK = 256
"""Most positions of a block."""
PROGRAMS_PER_SM = 16
"""Programs that a launch has for each multiprocessor at most; beyond that, programs take several splits."""


def supports(weights: torch.Tensor, *others: torch.Tensor) -> str | None:
    """Returns None if the kernels take these tensors here, otherwise the reason."""
    if refused := runtime.refusal(weights, *others):
        return refused
    if weights.dtype != torch.float32:
        return f"no GPU kernel for {weights.dtype}"
    if weights.stride(-1) != 1 or (others and not others[0].is_contiguous()):
        return "an input is not contiguous"
    return None if weights.shape[-1] < 2**30 else f"rows of {weights.shape[-1]} weights"


def supports_blocks(p_RBV: torch.Tensor, *others: torch.Tensor) -> str | None:
    """Returns None if `verify_by_rejection` takes these tensors here, otherwise the reason."""
    if refused := supports(p_RBV, *others):
        return refused
    if not all(tensor.is_contiguous() for tensor in (p_RBV, *others)):
        return "an input is not contiguous"
    return None if p_RBV.shape[1] <= MAX_BLOCK else f"a block of {p_RBV.shape[1]} is above {MAX_BLOCK}"


def draw(weights_RV: torch.Tensor, numbers_R: torch.Tensor) -> torch.Tensor:
    """int64 `[R]`: one index per row by inverse CDF, summed in float64; never one of weight 0."""
    return _draw(weights_RV, weights_RV, numbers_R, None)


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
    accepted_R = torch.empty_like(length_R)
    rows_2R = length_R.new_empty((2, num_blocks))
    runtime.launch(
        _first_rejected, (num_blocks,),
        p_RBV, q_RDV, block_RB, length_R, chances_RD, accepted_R, rows_2R, width, vocab,
        BLOCK=max(32, 1 << (width - 1).bit_length()), num_warps=1,
    )  # fmt: skip
    p_TV, q_TV = p_RBV.view(-1, vocab), q_RDV.view(-1, vocab)
    return accepted_R, _draw(p_TV, q_TV, numbers_RB.view(-1), rows_2R)


def _draw(
    p_TV: torch.Tensor, q_TV: torch.Tensor, numbers_T: torch.Tensor, rows_2R: torch.Tensor | None
) -> torch.Tensor:
    """Draws from p - q in the given rows of p and q (-1 = no q), or from every row of p."""
    num_rows, vocab = p_TV.shape[0] if rows_2R is None else rows_2R.shape[1], p_TV.shape[1]
    splits = -(-vocab // SPLIT)
    sums_2RS = p_TV.new_empty((2, num_rows, splits), dtype=torch.float64)
    tokens_R = p_TV.new_empty(num_rows, dtype=torch.int64)
    programs = -(-PROGRAMS_PER_SM * runtime.num_sms(p_TV.device) // max(1, num_rows))
    rows = numbers_T if rows_2R is None else rows_2R  # without rows the pointer is not read
    places = (p_TV, q_TV, rows, sums_2RS)
    by_rows = rows_2R is not None
    runtime.launch(
        _sums, (num_rows, min(splits, programs)), *places, p_TV.stride(0), vocab,
        SPLIT=SPLIT, BY_ROWS=by_rows, num_warps=4,
    )  # fmt: skip
    runtime.launch(
        _pick, (num_rows,), *places, numbers_T, tokens_R, p_TV.stride(0), vocab,
        NUM_SPLITS=splits, BLOCK=max(2, 1 << (splits - 1).bit_length()), SPLIT=SPLIT, BY_ROWS=by_rows, num_warps=4,
    )  # fmt: skip
    return tokens_R


@jit(do_not_specialize=["width"])
def _first_rejected(
    p_at, q_at, block_at, length_at, chances_at, accepted_at, rows_at, width, vocab, BLOCK: tl.constexpr
):
    block, num_blocks = tl.program_id(0).to(tl.int64), tl.num_programs(0)
    drafts = tl.load(length_at + block) - 1
    place = tl.arange(0, BLOCK)
    inside = place < drafts
    draft = tl.load(block_at + block * width + place + 1, mask=inside, other=0)
    p = tl.load(p_at + (block * width + place) * vocab + draft, mask=inside, other=0.0).to(tl.float64)
    q_row = block * (width - 1) + place
    q = tl.load(q_at + q_row * vocab + draft, mask=inside, other=0.0).to(tl.float64)
    chance = tl.load(chances_at + q_row, mask=inside, other=0.0)
    last = tl.min(tl.where(inside & ~(chance * q < p), place.to(tl.int64), drafts), axis=0)
    tl.store(accepted_at + block, last + 1)
    tl.store(rows_at + block, block * width + last)
    tl.store(rows_at + num_blocks + block, tl.where(last < drafts, block * (width - 1) + last, -1))


@jit
def _sums(p_at, q_at, rows_at, sums_at, stride, vocab, SPLIT: tl.constexpr, BY_ROWS: tl.constexpr):
    num_splits = tl.cdiv(vocab, SPLIT)
    row, num_rows = tl.program_id(0).to(tl.int64), tl.num_programs(0)
    p_row, q_row = row, row
    if BY_ROWS:
        p_row, q_row = tl.load(rows_at + row), tl.load(rows_at + num_rows + row)
    for split in range(tl.program_id(1), num_splits, tl.num_programs(1)):
        token = split * SPLIT + tl.arange(0, SPLIT)
        p = tl.load(p_at + p_row * stride + token, mask=token < vocab, other=0.0)
        above = p
        if BY_ROWS:
            q = tl.load(q_at + q_row * vocab + token, mask=(token < vocab) & (q_row >= 0), other=0.0)
            above = tl.maximum(p - q, 0.0)
            tl.store(sums_at + (num_rows + row) * num_splits + split, tl.sum(p.to(tl.float64), axis=0))
        tl.store(sums_at + row * num_splits + split, tl.sum(above.to(tl.float64), axis=0))


@jit
def _pick(
    p_at, q_at, rows_at, sums_at, numbers_at, tokens_at, stride, vocab,
    NUM_SPLITS: tl.constexpr, BLOCK: tl.constexpr, SPLIT: tl.constexpr, BY_ROWS: tl.constexpr,
):  # fmt: skip
    row, num_rows = tl.program_id(0).to(tl.int64), tl.num_programs(0)
    index = tl.arange(0, BLOCK)
    sums = tl.load(sums_at + row * NUM_SPLITS + index, mask=index < NUM_SPLITS, other=0.0)
    nothing_above = tl.sum(sums, axis=0) <= 0.0
    p_row, q_row = row, row
    if BY_ROWS:
        p_row, q_row = tl.load(rows_at + row), tl.load(rows_at + num_rows + row)
        all_of_p = tl.load(sums_at + (num_rows + row) * NUM_SPLITS + index, mask=index < NUM_SPLITS, other=0.0)
        sums = tl.where(nothing_above, all_of_p, sums)
    target = tl.load(numbers_at + p_row) * tl.sum(sums, axis=0)
    reached = (sums > 0.0) & (tl.cumsum(sums, axis=0) > target)
    # The target may round up to the total: then the last positive weight is meant.
    last = tl.max(tl.where(sums > 0.0, index, 0), axis=0)
    split = tl.minimum(tl.min(tl.where(reached, index, BLOCK), axis=0), last)
    before = tl.sum(tl.where(index < split, sums, 0.0), axis=0)

    place = tl.arange(0, SPLIT)
    token = split * SPLIT + place
    weights = tl.load(p_at + p_row * stride + token, mask=token < vocab, other=0.0)
    if BY_ROWS:
        q = tl.load(q_at + q_row * vocab + token, mask=(token < vocab) & (q_row >= 0), other=0.0)
        weights = tl.where(nothing_above, weights, tl.maximum(weights - q, 0.0))
    exceeded = (weights > 0.0) & (before + tl.cumsum(weights.to(tl.float64), axis=0) > target)
    last_place = tl.max(tl.where(weights > 0.0, place, 0), axis=0)
    found = tl.minimum(tl.min(tl.where(exceeded, place, SPLIT), axis=0), last_place)
    tl.store(tokens_at + row, (split * SPLIT + found).to(tl.int64))
