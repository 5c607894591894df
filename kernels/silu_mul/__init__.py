"""The gated activation of the MLP."""

from __future__ import annotations

import torch
from trimode.kernels.silu_mul import cpu, reference


def silu_mul(gate_up_TJ: torch.Tensor) -> torch.Tensor:
    """`silu(gate) * up`, `[T, J / 2]`, of `[gate, up]` side by side; see `reference`."""
    op = cpu.silu_mul if cpu.takes(gate_up_TJ) else reference.silu_mul
    return op(gate_up_TJ)


__all__ = ["silu_mul"]
