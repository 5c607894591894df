"""Prefix verification on a GPU: one program per block finds the first draft that the verifier does not agree with.

R = blocks, B = positions of a block (seed and B - 1 drafts).
"""

from __future__ import annotations

import torch
from trimode.kernels.cuda import runtime
from trimode.kernels.cuda.runtime import jit, tl

MAX_BLOCK = 1024
"""Most positions of a block."""


def supports(verified_RB: torch.Tensor, *others: torch.Tensor) -> str | None:
    """Returns None if `prefix_verify` takes these tensors here, otherwise the reason."""
    if refused := runtime.refusal(verified_RB, *others):
        return refused
    if not all(tensor.is_contiguous() for tensor in (verified_RB, *others)):
        return "an input is not contiguous"
    return None if verified_RB.shape[1] <= MAX_BLOCK else f"a block of {verified_RB.shape[1]} is above {MAX_BLOCK}"


def prefix_verify(verified_RB: torch.Tensor, block_RB: torch.Tensor, length_R: torch.Tensor) -> torch.Tensor:
    """int64 `[R]`: one plus the number of leading i with `verified[i] == block[i + 1]`."""
    num_blocks, width = verified_RB.shape
    accepted_R = torch.empty_like(length_R)
    block = max(32, 1 << max(0, width - 1).bit_length())
    runtime.launch(
        _prefix_verify, (num_blocks,), verified_RB, block_RB, length_R, accepted_R, width,
        BLOCK=block, num_warps=max(1, block // 128),
    )  # fmt: skip
    return accepted_R


@jit(do_not_specialize=["width"])
def _prefix_verify(verified_at, block_at, length_at, accepted_at, width, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    drafts = tl.minimum(tl.load(length_at + row), width) - 1
    place = tl.arange(0, BLOCK)
    inside = place < drafts
    verified = tl.load(verified_at + row * width + place, mask=inside, other=0)
    draft = tl.load(block_at + row * width + place + 1, mask=inside, other=0)
    agreed = tl.min(tl.where(inside & (verified != draft), place, drafts), axis=0)
    tl.store(accepted_at + row, tl.maximum(agreed, 0) + 1)
