"""Draws tokens from distributions with given random numbers: plainly, and to verify drafts by rejection sampling.

The rejection rule (Leviathan et al., arXiv 2211.17192; Chen et al., arXiv 2302.01318) makes the verified tokens exact
samples of p, whatever q the drafts were drawn from.

R = rows or blocks, B = positions of a block (seed and drafts), D = B - 1, V = vocabulary.
"""

from __future__ import annotations

import torch
from trimode.kernels.cuda import runtime
from trimode.kernels.draw import cuda, reference


def draw(weights_RV: torch.Tensor, numbers_R: torch.Tensor) -> torch.Tensor:
    """Draws one index per row by inverse CDF. Returns int64 `[R]`; an index of weight 0 is never drawn.

    Sums are in float64, so that a boundary between two indices is off by about 1e-15 of the total.

    Args:
        weights_RV: float, non-negative, not necessarily normalised; every row has a positive weight. V >= 1.
        numbers_R: float64 in (0, 1), one per row.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit each other.
    """
    fits = weights_RV.dim() == 2 and weights_RV.shape[1] > 0 and weights_RV.is_floating_point()
    if (
        not fits
        or numbers_R.shape != weights_RV.shape[:1]
        or numbers_R.dtype != torch.float64
        or _split(weights_RV, numbers_R)
    ):
        raise ValueError(
            f"draw: got {_named(weights=weights_RV, numbers=numbers_R)}; "
            "expected float [R, V] with V >= 1 and float64 [R] on one device"
        )
    run = cuda.draw if cuda.supports(weights_RV, numbers_R) is None else reference.draw
    return run(weights_RV, numbers_R)


def replace_rejected(
    p_RV: torch.Tensor, q_RV: torch.Tensor, drafts_R: torch.Tensor, chances_R: torch.Tensor, numbers_R: torch.Tensor
) -> torch.Tensor:
    """Returns each draft, or where it is rejected a token drawn from the positive part of p - q. int64 `[R]`.

    Where rounding leaves no token with p above q, the two distributions are equal as far as floats can tell, and the
    token is drawn from p itself.

    Args:
        p_RV: float `[R, V]`, the distributions to sample from.
        q_RV: the same, the distributions that the drafts were drawn from.
        drafts_R: int64 `[R]`.
        chances_R: float64 `[R]` in (0, 1): a draft is accepted where `chance * q < p`.
        numbers_R: float64 `[R]` in (0, 1), for the draws.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit each other.
    """
    vectors = (drafts_R, chances_R, numbers_R)
    fits = p_RV.dim() == 2 and p_RV.shape == q_RV.shape and all(part.shape == p_RV.shape[:1] for part in vectors)
    dtypes = [part.dtype for part in vectors] == [torch.int64, torch.float64, torch.float64]
    if not fits or not dtypes or p_RV.dtype != q_RV.dtype or _split(p_RV, q_RV, *vectors):
        got = _named(p=p_RV, q=q_RV, drafts=drafts_R, chances=chances_R, numbers=numbers_R)
        raise ValueError(
            f"replace_rejected: got {got}; "
            "expected twice float [R, V] of one dtype, int64 [R], and twice float64 [R] on one device"
        )
    drawn_R = draw(reference.residual(p_RV, q_RV), numbers_R)
    return torch.where(reference.is_accepted(p_RV, q_RV, drafts_R, chances_R), drafts_R, drawn_R)


def verify_by_rejection(
    p_RBV: torch.Tensor,
    q_RDV: torch.Tensor,
    block_RB: torch.Tensor,
    length_R: torch.Tensor,
    chances_RD: torch.Tensor,
    numbers_RB: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns how many tokens each block gives, and the last of them: the drafts before it are the others.

    The last token replaces the first rejected draft, see `replace_rejected`. If no draft is rejected it is drawn from
    the p behind the last one. Only one row of p and of q is read per block, apart from the probabilities of the drafts.

    Args:
        p_RBV: float `[R, B, V]`: the verifier's distribution of the token after each block position.
        q_RDV: float `[R, D, V]`: the distributions that the drafts were drawn from.
        block_RB: int64 `[R, B]`: seed and drafts, padded.
        length_R: int64 `[R]`: length of each block without padding, >= 1.
        chances_RD: float64 `[R, D]` in (0, 1): draft i is accepted where `chance * q < p`.
        numbers_RB: float64 `[R, B]` in (0, 1): used to draw at position i.

    Returns:
        `(accepted, token)`, int64 `[R]` each; accepted is 1 .. length.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit each other.
    """
    tensors = (p_RBV, q_RDV, block_RB, length_R, chances_RD, numbers_RB)
    num_blocks, width, vocab = tuple(p_RBV.shape) if p_RBV.dim() == 3 else (0, 0, 0)
    fits = width > 0 and vocab > 0 and block_RB.shape == numbers_RB.shape == (num_blocks, width)
    fits = fits and q_RDV.shape == (num_blocks, width - 1, vocab) and chances_RD.shape == (num_blocks, width - 1)
    fits = fits and length_R.shape == (num_blocks,) and p_RBV.is_floating_point()
    dtypes = (p_RBV.dtype, torch.int64, torch.int64, torch.float64, torch.float64)
    if not fits or tuple(tensor.dtype for tensor in tensors[1:]) != dtypes or _split(*tensors):
        got = _named(p=p_RBV, q=q_RDV, block=block_RB, length=length_R, chances=chances_RD, numbers=numbers_RB)
        raise ValueError(
            f"verify_by_rejection: got {got}; expected float [R, B, V] and [R, B - 1, V] of one dtype, "
            "int64 [R, B] and [R], float64 [R, B - 1] and [R, B] on one device"
        )
    run = cuda.verify_by_rejection if cuda.supports_blocks(*tensors) is None else reference.verify_by_rejection
    return run(*tensors)


def describe(weights_RV: torch.Tensor) -> str:
    """Returns which implementation draws from such weights, and why."""
    refused = cuda.supports(weights_RV)
    return runtime.describe(weights_RV, refused) or "reference: the only implementation for a CPU"


def _split(*tensors: torch.Tensor) -> bool:
    """True if the tensors are on several devices."""
    return len({tensor.device for tensor in tensors}) > 1


def _named(**tensors: torch.Tensor) -> str:
    return ", ".join(
        f"{name} {tensor.dtype} {list(tensor.shape)} on {tensor.device}" for name, tensor in tensors.items()
    )
