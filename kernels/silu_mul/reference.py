"""SwiGLU's activation in plain torch.

T = rows, J = twice the intermediate size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def silu_mul(gate_up_TJ: torch.Tensor) -> torch.Tensor:
    """`silu(gate) * up`, `[T, J / 2]`: the first half of each row gates the second."""
    gate, up = gate_up_TJ.chunk(2, dim=-1)
    return F.silu(gate).mul_(up)
