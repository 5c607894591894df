"""Number of tokens that a causal verification of a draft accepts.

R = blocks, B = positions of a block (seed and B - 1 drafts).
"""

from __future__ import annotations

import torch
from trimode.kernels.cuda import runtime
from trimode.kernels.prefix_verify import cuda, reference


def prefix_verify(verified_RB: torch.Tensor, block_RB: torch.Tensor, length_R: torch.Tensor) -> torch.Tensor:
    """Returns the accepted tokens per block: the drafts that the verifier agrees with up to the first that it does not
    agree with, and the verifier's own next token.

    Args:
        verified_RB: int64 `[R, B]`: the verifier's token for the position after each block position.
        block_RB: int64 `[R, B]`: seed and drafts, padded.
        length_R: int64 `[R]`: length of each block without padding, >= 1.

    Returns:
        int64 `[R]`, in 1 .. length.

    Raises:
        ValueError: shapes or dtypes that do not fit each other, or tensors on several devices.
    """
    tensors = (verified_RB, block_RB, length_R)
    fits = verified_RB.dim() == 2 and verified_RB.shape == block_RB.shape and length_R.shape == verified_RB.shape[:1]
    if not fits or {(tensor.dtype, tensor.device) for tensor in tensors} != {(torch.int64, verified_RB.device)}:
        got = ", ".join(
            f"{name} {tensor.dtype} {list(tensor.shape)} on {tensor.device}"
            for name, tensor in zip(("verified", "block", "length"), tensors, strict=True)
        )
        raise ValueError(f"prefix_verify: got {got}; expected [R, B], [R, B] and [R], int64 on one device")
    run = cuda.prefix_verify if cuda.supports(*tensors) is None else reference.prefix_verify
    return run(*tensors)


def describe(verified_RB: torch.Tensor) -> str:
    """Returns which implementation runs for such tokens, and why."""
    refused = cuda.supports(verified_RB)
    return runtime.describe(verified_RB, refused) or "reference: the only implementation for a CPU"
