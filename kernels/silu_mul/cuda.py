"""SwiGLU's activation on a GPU: one pass, in float32 from load to store.

T = rows, J = twice the intermediate size.
"""

from __future__ import annotations

import torch
from trimode.kernels.cuda import runtime
from trimode.kernels.cuda.runtime import jit, tl

BLOCK = 512
"""Outputs of a program: 28 programs for one row of the 8B model. Each thread loads 16 bytes of bfloat16 at once."""


def supports(gate_up_TJ: torch.Tensor) -> str | None:
    """Returns None if `silu_mul` takes these rows here, otherwise the reason."""
    if refused := runtime.refusal(gate_up_TJ):
        return refused
    if gate_up_TJ.dtype not in runtime.DTYPES:
        return f"no GPU kernel for {gate_up_TJ.dtype}"
    return None if gate_up_TJ.stride(1) == 1 else "columns are not contiguous"


def silu_mul(gate_up_TJ: torch.Tensor) -> torch.Tensor:
    """`silu(gate) * up`, `[T, J / 2]`, rounded once."""
    num_rows, width = gate_up_TJ.shape[0], gate_up_TJ.shape[1] // 2
    out_TI = gate_up_TJ.new_empty((num_rows, width))
    runtime.launch(
        _silu_mul, (num_rows, -(-width // BLOCK)), gate_up_TJ, out_TI, gate_up_TJ.stride(0),
        WIDTH=width, BLOCK=BLOCK, num_warps=2,
    )  # fmt: skip
    return out_TI


@jit
def _silu_mul(gate_up_at, out_at, row_stride, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < WIDTH
    at = gate_up_at + row * row_stride + column
    gate = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(at + WIDTH, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_at + row * WIDTH + column, gate / (1.0 + tl.exp(-gate)) * up, mask=inside)
