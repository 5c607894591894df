"""The gated activation of the MLP (SwiGLU; Shazeer, arXiv 2002.05202).

T = rows, J = twice the intermediate size.
"""

from __future__ import annotations

import torch
from trimode.kernels.cuda import runtime
from trimode.kernels.llvm import jit
from trimode.kernels.llvm.jit import Call
from trimode.kernels.llvm.tape import check_bound
from trimode.kernels.silu_mul import cpu, cuda, reference


def silu_mul(gate_up_TJ: torch.Tensor) -> torch.Tensor:
    """Returns `silu(gate) * up`, where each row holds the gate values and then the up values.

    Args:
        gate_up_TJ: float `[T, J]`, J even.

    Returns:
        `[T, J / 2]` in the same dtype.

    Raises:
        ValueError: the input is not a float matrix with an even number of columns.
    """
    if gate_up_TJ.dim() != 2 or gate_up_TJ.shape[1] % 2 or not gate_up_TJ.is_floating_point():
        raise ValueError(
            f"silu_mul: got {gate_up_TJ.dtype} {list(gate_up_TJ.shape)}, expected float [T, J] with J even"
        )
    if cuda.supports(gate_up_TJ) is None:
        return cuda.silu_mul(gate_up_TJ)
    run = cpu.silu_mul if cpu.supports(gate_up_TJ) is None else reference.silu_mul
    return run(gate_up_TJ)


def prepare(gate_up_TJ: torch.Tensor, out_TI: torch.Tensor) -> Call:
    """Returns the call that computes the same on fixed memory, for a tape. UnboundError where no CPU kernel runs."""
    check_bound(cpu.supports(gate_up_TJ))
    return cpu.prepare(gate_up_TJ, out_TI)


def describe(gate_up_TJ: torch.Tensor) -> str:
    """Returns which implementation runs for such rows, and why."""
    refused = cuda.supports(gate_up_TJ)
    return runtime.describe(gate_up_TJ, refused) or jit.describe(cpu.supports(gate_up_TJ))
