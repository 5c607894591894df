"""The best token of rows of logits, with the maximum and the denominator of their softmax: all from one read.

R = rows, V = vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from trimode.kernels.best_token import cpu, cuda, reference
from trimode.kernels.cuda import runtime
from trimode.kernels.llvm import jit


class Best(NamedTuple):
    """One entry per row. The softmax is over all logits, the suppressed one included.

    Probabilities are `exp(logit - peak) / total`. That form keeps confidences near 1 apart, where
    `exp(logit - logsumexp)` rounds them together.
    """

    tokens_R: torch.Tensor
    """int64: the token of the largest logit that is not suppressed; among equal ones the kernels take the lowest, the
    reference takes torch's choice. A row that holds NaN, or nothing above -inf, gives any token."""
    values_R: torch.Tensor
    """float32: its logit."""
    peak_R: torch.Tensor
    """float32: the largest logit of all."""
    total_R: torch.Tensor
    """float32: the sum of `exp(logit - peak)`. NaN if the row holds NaN."""


def best_token(logits_RV: torch.Tensor, *, suppressed: int | None = None) -> Best:
    """Returns the token of the largest logit of each row, and the softmax's peak and total.

    Args:
        logits_RV: float32, bfloat16 or float16 `[R, V]`, V >= 1. Sums are in float32 in any case.
        suppressed: a token that is not taken, although its logit counts in the softmax; None = none.

    Raises:
        ValueError: the logits are not a float matrix with at least one column, or `suppressed` is not a token.
    """
    dtypes = (torch.float32, torch.bfloat16, torch.float16)
    if logits_RV.dim() != 2 or logits_RV.dtype not in dtypes or not logits_RV.shape[1]:
        raise ValueError(
            f"best_token: got {logits_RV.dtype} {list(logits_RV.shape)}, "
            "expected float32, bfloat16 or float16 [R, V] with V >= 1"
        )
    if suppressed is not None and not 0 <= suppressed < logits_RV.shape[1]:
        raise ValueError(f"best_token: got suppressed {suppressed}, expected 0 to {logits_RV.shape[1] - 1} or None")
    if cuda.supports(logits_RV) is None:
        return Best(*cuda.best_token(logits_RV, suppressed))
    run = cpu.best_token if cpu.supports(logits_RV) is None else reference.best_token
    return Best(*run(logits_RV, suppressed))


def describe(logits_RV: torch.Tensor) -> str:
    """Returns which implementation runs for such logits, and why."""
    refused = cuda.supports(logits_RV)
    return runtime.describe(logits_RV, refused) or jit.describe(cpu.supports(logits_RV))
