"""RMSNorm on a GPU: one program per row, the row in registers, one read and one write of it.

T = rows, H = hidden.
"""

from __future__ import annotations

import torch
from trimode.kernels.cuda import runtime
from trimode.kernels.cuda.runtime import jit, tl

MAX_HIDDEN = 16384
"""Most columns of a row that one program holds in registers."""


def supports(x_TH: torch.Tensor, weight_H: torch.Tensor) -> str | None:
    """Returns None if `rms_norm` takes these tensors here, otherwise the reason."""
    if refused := runtime.refusal(x_TH, weight_H):
        return refused
    if x_TH.dtype not in runtime.DTYPES:
        return f"no GPU kernel for {x_TH.dtype}"
    if x_TH.stride(1) != 1 or weight_H.stride(0) != 1:
        return "columns are not contiguous"
    return None if x_TH.shape[1] <= MAX_HIDDEN else f"hidden {x_TH.shape[1]} is above {MAX_HIDDEN}"


def rms_norm(x_TH: torch.Tensor, weight_H: torch.Tensor, eps: float) -> torch.Tensor:
    """`x / sqrt(mean(x^2) + eps) * weight`, `[T, H]` in the dtype of x."""
    num_rows, hidden = x_TH.shape
    out_TH = torch.empty_like(x_TH, memory_format=torch.contiguous_format)
    block = 1 << (hidden - 1).bit_length()
    runtime.launch(
        _rms_norm, (num_rows,), x_TH, weight_H, out_TH, x_TH.stride(0), eps,
        HIDDEN=hidden, BLOCK=block, num_warps=min(16, max(1, block // 512)),
    )  # fmt: skip
    return out_TH


@jit
def _rms_norm(x_at, weight_at, out_at, x_stride, eps, HIDDEN: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < HIDDEN
    x = tl.load(x_at + row * x_stride + column, mask=inside, other=0.0).to(tl.float32)
    weight = tl.load(weight_at + column, mask=inside, other=0.0)
    scale = 1.0 / tl.sqrt(tl.sum(x * x, axis=0) / HIDDEN + eps)
    # Rounded before the weight is applied, as the released model does.
    normed = (x * scale).to(out_at.dtype.element_ty)
    tl.store(out_at + row * HIDDEN + column, (normed.to(tl.float32) * weight.to(tl.float32)), mask=inside)
