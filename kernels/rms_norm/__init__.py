"""Root-mean-square normalisation.

T = rows, H = hidden.
"""

from __future__ import annotations

import torch
from trimode.kernels.cuda import runtime
from trimode.kernels.llvm import jit
from trimode.kernels.llvm.jit import Call
from trimode.kernels.llvm.tape import check_bound
from trimode.kernels.rms_norm import cpu, cuda, reference


def rms_norm(x_TH: torch.Tensor, weight_H: torch.Tensor, eps: float) -> torch.Tensor:
    """Returns `x / sqrt(mean(x^2) + eps) * weight`, the mean taken over each row.

    Args:
        x_TH: float `[T, H]`.
        weight_H: `[H]` in the dtype of x.
        eps: added to the mean square.

    Returns:
        `[T, H]` in the dtype of x.

    Raises:
        ValueError: shapes or dtypes that do not fit each other.
    """
    if x_TH.dim() != 2 or weight_H.shape != x_TH.shape[1:] or weight_H.dtype != x_TH.dtype:
        raise ValueError(
            f"rms_norm: got x {x_TH.dtype} {list(x_TH.shape)}, weight {weight_H.dtype} {list(weight_H.shape)}; "
            "expected [T, H] and [H] of one dtype"
        )
    if cuda.supports(x_TH, weight_H) is None:
        return cuda.rms_norm(x_TH, weight_H, eps)
    run = cpu.rms_norm if cpu.supports(x_TH, weight_H) is None else reference.rms_norm
    return run(x_TH, weight_H, eps)


def prepare(x_TH: torch.Tensor, weight_H: torch.Tensor, eps: float, out_TH: torch.Tensor) -> Call:
    """Returns the call that computes the same on fixed memory, for a tape. UnboundError where no CPU kernel runs."""
    check_bound(cpu.supports(x_TH, weight_H))
    return cpu.prepare(x_TH, weight_H, eps, out_TH)


def describe(x_TH: torch.Tensor, weight_H: torch.Tensor) -> str:
    """Returns which implementation runs for such tensors, and why."""
    refused = cuda.supports(x_TH, weight_H)
    return runtime.describe(x_TH, refused) or jit.describe(cpu.supports(x_TH, weight_H))
