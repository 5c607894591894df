"""The best token and the softmax of rows of logits on a GPU: one read of them.

A row is cut into splits of a fixed length, each with its own maximum and sum, and a second kernel joins them in order.
So one row alone fills the GPU, and a row's result does not depend on the other rows. A program takes one split or
several, which changes nothing in the results.

R = rows, V = vocabulary, S = splits of a row.
"""

from __future__ import annotations

import torch
from trimode.kernels.cuda import runtime
from trimode.kernels.cuda.runtime import jit, tl

SPLIT = 1024
"""Logits of a split: 128 splits of 131,072 logits, about one for each multiprocessor."""
PROGRAMS_PER_SM = 16
"""Programs that a launch has for each multiprocessor at most; beyond that, programs take several splits."""


def supports(logits_RV: torch.Tensor) -> str | None:
    """Returns None if `best_token` takes these logits here, otherwise the reason."""
    if refused := runtime.refusal(logits_RV):
        return refused
    if logits_RV.stride(1) != 1:
        return "the logits of a row are not contiguous"
    return None if logits_RV.shape[1] < 2**30 else f"rows of {logits_RV.shape[1]} logits"


def best_token(
    logits_RV: torch.Tensor, suppressed: int | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """`(tokens, values, peak, total)`: int64 `[R]` and three times float32 `[R]`."""
    num_rows, vocab = logits_RV.shape
    splits = -(-vocab // SPLIT)
    parts_3RS = logits_RV.new_empty((3, num_rows, splits), dtype=torch.float32)
    places_RS = logits_RV.new_empty((num_rows, splits), dtype=torch.int32)
    tokens_R = logits_RV.new_empty(num_rows, dtype=torch.int64)
    values_3R = logits_RV.new_empty((3, num_rows), dtype=torch.float32)
    programs = -(-PROGRAMS_PER_SM * runtime.num_sms(logits_RV.device) // max(1, num_rows))
    runtime.launch(
        _splits, (num_rows, min(splits, programs)),
        logits_RV, parts_3RS, places_RS, logits_RV.stride(0), vocab, -1 if suppressed is None else suppressed,
        SPLIT=SPLIT, num_warps=2,
    )  # fmt: skip
    runtime.launch(
        _join, (num_rows,), parts_3RS, places_RS, tokens_R, values_3R, vocab,
        NUM_SPLITS=splits, BLOCK=1 << (splits - 1).bit_length(), num_warps=1,
    )  # fmt: skip
    return tokens_R, values_3R[0], values_3R[1], values_3R[2]


@jit(do_not_specialize=["suppressed"])
def _splits(logits_at, parts_at, places_at, logits_stride, vocab, suppressed, SPLIT: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    num_splits = tl.cdiv(vocab, SPLIT)
    part_stride = tl.num_programs(0).to(tl.int64) * num_splits
    for split in range(tl.program_id(1), num_splits, tl.num_programs(1)):
        token = split * SPLIT + tl.arange(0, SPLIT)
        logit = tl.load(logits_at + row * logits_stride + token, mask=token < vocab, other=float("-inf"))
        logit = logit.to(tl.float32)
        peak = tl.max(logit, axis=0)
        # -inf below itself would be NaN.
        total = tl.sum(tl.exp(logit - tl.where(peak == float("-inf"), 0.0, peak)), axis=0)
        allowed = (token < vocab) & (token != suppressed)
        value = tl.max(tl.where(allowed, logit, float("-inf")), axis=0)
        place = tl.min(tl.where(allowed & (logit == value), token, vocab), axis=0)
        at = row * num_splits + split
        tl.store(parts_at + at, value)
        tl.store(parts_at + part_stride + at, peak)
        tl.store(parts_at + 2 * part_stride + at, total)
        tl.store(places_at + at, place)


@jit
def _join(parts_at, places_at, tokens_at, values_at, vocab, NUM_SPLITS: tl.constexpr, BLOCK: tl.constexpr):
    row, num_rows = tl.program_id(0).to(tl.int64), tl.num_programs(0).to(tl.int64)
    split = tl.arange(0, BLOCK)
    inside = split < NUM_SPLITS
    at = row * NUM_SPLITS + split
    values = tl.load(parts_at + at, mask=inside, other=float("-inf"))
    peaks = tl.load(parts_at + num_rows * NUM_SPLITS + at, mask=inside, other=float("-inf"))
    totals = tl.load(parts_at + 2 * num_rows * NUM_SPLITS + at, mask=inside, other=0.0)
    places = tl.load(places_at + at, mask=inside, other=vocab)
    value, peak = tl.max(values, axis=0), tl.max(peaks, axis=0)
    # A row of NaN has no place: any token is right.
    place = tl.minimum(tl.min(tl.where(values == value, places, vocab), axis=0), vocab - 1)
    share = tl.where(inside, totals * tl.exp(peaks - peak), 0.0)
    tl.store(tokens_at + row, place.to(tl.int64))
    tl.store(values_at + row, value)
    tl.store(values_at + num_rows + row, peak)
    tl.store(values_at + 2 * num_rows + row, tl.sum(share, axis=0))
