"""Number of tokens that a causal verification of a draft accepts.

R = blocks, B = positions of a block (seed and B - 1 drafts).
"""

from __future__ import annotations

import torch
from trimode.kernels.prefix_verify import reference


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
        ValueError: shapes that do not fit each other.
    """
    if verified_RB.dim() != 2 or verified_RB.shape != block_RB.shape or length_R.shape != verified_RB.shape[:1]:
        raise ValueError(
            f"prefix_verify: got verified {list(verified_RB.shape)}, block {list(block_RB.shape)}, "
            f"length {list(length_R.shape)}; expected [R, B], [R, B] and [R]"
        )
    return reference.prefix_verify(verified_RB, block_RB, length_R)


def describe() -> str:
    """Returns which implementation runs, and why."""
    return "reference: the only implementation"
