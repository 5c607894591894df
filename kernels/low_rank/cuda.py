"""A low-rank product added to some rows on a GPU: one kernel down to the rank, one up and into the rows.

The inputs are cut into splits of a fixed length, so that a few tokens fill the GPU; their sums are added in order. A
tile of tokens that are all off costs a read of their flags.

T = tokens, I = inputs, H = outputs, R = rank, S = splits of the inputs.
"""

from __future__ import annotations

import torch
from trimode.kernels.cuda import runtime
from trimode.kernels.cuda.runtime import jit, tl

MAX_RANK = 256
TOKENS = 16
"""Tokens of a tile: the fewest rows of a matrix instruction."""
SPLIT = 512
"""Inputs that a program of the first kernel sums."""
STEP = 128
"""Of them, those multiplied at once."""
RANKS = 32
"""Ranks of a program of the first kernel."""
MAX_INNER = 64
"""Ranks that a program of the second kernel multiplies at once."""
OUTPUTS = 64
"""Outputs of a program of the second kernel."""
WALK_TOKENS = 256
"""Most tokens for which each split has its own program. For more of them one program sums all splits in that order."""
FLOAT32_REGISTERS = 128
"""Registers of a thread of the second kernel in float32. Left alone the assembler spills some to run more programs."""


def supports(
    y_TH: torch.Tensor, x_TI: torch.Tensor, a_RI: torch.Tensor, b_HR: torch.Tensor, *others: torch.Tensor
) -> str | None:
    """Returns None if `add_low_rank` takes these tensors here, otherwise the reason."""
    if refused := runtime.refusal(y_TH, x_TI, a_RI, b_HR, *others):
        return refused
    if a_RI.dtype not in runtime.DTYPES:
        return f"no GPU kernel for {a_RI.dtype}"
    if y_TH.stride(1) != 1 or x_TI.stride(1) != 1 or not all(t.is_contiguous() for t in (a_RI, b_HR, *others)):
        return "columns are not contiguous"
    return None if a_RI.shape[0] <= MAX_RANK else f"rank {a_RI.shape[0]} is above {MAX_RANK}"


def add_low_rank(
    y_TH: torch.Tensor, x_TI: torch.Tensor, a_RI: torch.Tensor, b_HR: torch.Tensor, scale: float, on_T: torch.Tensor
) -> None:
    """`y += scale * (x @ a.T) @ b.T` in the rows where `on` is not 0, in place, rounded once."""
    (num_tokens, inputs), (width, rank) = x_TI.shape, b_HR.shape
    tiles, splits = -(-num_tokens // TOKENS), -(-inputs // SPLIT)
    each = splits if num_tokens > WALK_TOKENS else 1
    splits //= each
    sums_STR = x_TI.new_empty((splits, num_tokens, rank), dtype=torch.float32)
    runtime.launch(
        _down, (tiles, -(-rank // RANKS), splits), x_TI, a_RI, sums_STR, on_T, x_TI.stride(0), num_tokens,
        INPUTS=inputs, RANK=rank, EACH=each, TOKENS=TOKENS, RANKS=RANKS, SPLIT=SPLIT, STEP=STEP, num_warps=4,
        num_stages=4,
    )  # fmt: skip
    runtime.launch(
        _up, (tiles, -(-width // OUTPUTS)), sums_STR, b_HR, y_TH, on_T, y_TH.stride(0), num_tokens, scale,
        WIDTH=width, RANK=rank, NUM_SPLITS=splits, TOKENS=TOKENS, OUTPUTS=OUTPUTS,
        RANKS=min(MAX_INNER, max(16, 1 << (rank - 1).bit_length())), num_warps=4, num_stages=1,
        maxnreg=FLOAT32_REGISTERS if y_TH.dtype == torch.float32 else None,
    )  # fmt: skip


@jit(do_not_specialize=["num_tokens"])
def _down(
    x_at, a_at, sums_at, on_at, x_stride, num_tokens,
    INPUTS: tl.constexpr, RANK: tl.constexpr, EACH: tl.constexpr, TOKENS: tl.constexpr, RANKS: tl.constexpr,
    SPLIT: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """EACH splits of the inputs for a tile of tokens and some ranks. Grid: tiles, blocks of ranks, splits / EACH."""
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    known = token < num_tokens
    on = tl.load(on_at + token, mask=known, other=0) != 0
    if tl.max(on.to(tl.int32), axis=0) == 0:
        return
    rank = tl.program_id(1) * RANKS + tl.arange(0, RANKS)
    x_rows = x_at + token.to(tl.int64)[:, None] * x_stride
    a_rows = a_at + rank[None, :] * INPUTS
    total = tl.zeros([TOKENS, RANKS], tl.float32)
    for split in range(tl.program_id(2) * EACH, (tl.program_id(2) + 1) * EACH):
        sums = tl.zeros([TOKENS, RANKS], tl.float32)
        for start in range(0, SPLIT, STEP):
            column = split * SPLIT + start + tl.arange(0, STEP)
            x = tl.load(x_rows + column[None, :], mask=on[:, None] & (column < INPUTS)[None, :], other=0.0)
            a = tl.load(a_rows + column[:, None], mask=(rank < RANK)[None, :] & (column < INPUTS)[:, None], other=0.0)
            sums = tl.dot(x, a, sums, input_precision="ieee")
        total = total + sums
    row = tl.program_id(2) * num_tokens + token
    at = sums_at + row.to(tl.int64)[:, None] * RANK + rank[None, :]
    tl.store(at, total, mask=on[:, None] & (rank < RANK)[None, :])


@jit(do_not_specialize=["num_tokens"])
def _up(
    sums_at, b_at, y_at, on_at, y_stride, num_tokens, scale,
    WIDTH: tl.constexpr, RANK: tl.constexpr, NUM_SPLITS: tl.constexpr, TOKENS: tl.constexpr, OUTPUTS: tl.constexpr,
    RANKS: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    on = tl.load(on_at + token, mask=token < num_tokens, other=0) != 0
    if tl.max(on.to(tl.int32), axis=0) == 0:
        return
    column = tl.program_id(1) * OUTPUTS + tl.arange(0, OUTPUTS)
    added = tl.zeros([TOKENS, OUTPUTS], tl.float32)
    for first in range(0, RANK, RANKS):
        rank = first + tl.arange(0, RANKS)
        inner = tl.zeros([TOKENS, RANKS], tl.float32)
        for split in range(NUM_SPLITS):
            row = split * num_tokens + token
            at = sums_at + row.to(tl.int64)[:, None] * RANK + rank[None, :]
            inner += tl.load(at, mask=on[:, None] & (rank < RANK)[None, :], other=0.0)
        known = (column < WIDTH)[None, :] & (rank < RANK)[:, None]
        b = tl.load(b_at + column[None, :] * RANK + rank[:, None], mask=known, other=0.0)
        added = tl.dot(inner.to(b_at.dtype.element_ty), b, added, input_precision="ieee")
    at = y_at + token.to(tl.int64)[:, None] * y_stride + column[None, :]
    changed = on[:, None] & (column < WIDTH)[None, :]
    tl.store(at, tl.load(at, mask=changed, other=0.0).to(tl.float32) + added * scale, mask=changed)
