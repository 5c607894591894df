"""The order in which the CPU kernels for few bytes read a weight: blocks of 32 outputs, pairs of inputs.

A *step* is 2 pairs of inputs times 32 outputs, 128 weights: 4 vectors of 32 words of 16 bits. Word 2n + k of vector
2p + h belongs to output 16h + n of the block and to input k of pair p, which is what the CPU's product of bfloat16
pairs takes. B = blocks, S = steps of a block.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

OUTPUTS = 32
"""Outputs of a block."""
STEP_INPUTS = 4
STEP_WEIGHTS = OUTPUTS * STEP_INPUTS
_ROWS_AT_ONCE = 1 << 22
"""Weights that are packed at a time, which bounds the memory of the wider copies."""


def num_blocks(num_outputs: int) -> int:
    """Returns the blocks that hold so many outputs."""
    return -(-num_outputs // OUTPUTS)


def blocks_at_once(num_inputs: int) -> int:
    """Returns how many blocks to pack at a time."""
    return max(1, _ROWS_AT_ONCE // (OUTPUTS * max(1, num_inputs)))


def to_steps(weight_OI: torch.Tensor) -> torch.Tensor:
    """Returns weights of 1 or 2 bytes as `[B, S, 4, 32]`. The last output stands for those that a block lacks."""
    num_outputs, num_inputs = weight_OI.shape
    missing = -num_outputs % OUTPUTS
    if missing:
        weight_OI = torch.cat([weight_OI, weight_OI[-1:].expand(missing, -1)])
    pairs = weight_OI.contiguous().view(torch.int32 if weight_OI.element_size() == 2 else torch.int16)  # moved as one
    halves = pairs.view(-1, 2, 16, num_inputs // STEP_INPUTS, 2)  # block, half, lane, step, pair
    moved = halves.permute(0, 3, 4, 1, 2).contiguous().view(weight_OI.dtype)
    return moved.view(-1, num_inputs // STEP_INPUTS, 4, OUTPUTS)


def from_steps(steps_BS4W: torch.Tensor, num_outputs: int) -> torch.Tensor:
    """Returns what `to_steps` took."""
    blocks, steps = steps_BS4W.shape[:2]
    apart = steps_BS4W.reshape(blocks, steps, 2, 2, 16, 2)  # block, step, pair, half, lane, input
    plain = apart.permute(0, 3, 4, 1, 2, 5).reshape(blocks * OUTPUTS, steps * STEP_INPUTS)
    return plain[:num_outputs].contiguous()


def per_output(values: torch.Tensor, num_outputs: int) -> torch.Tensor:
    """Returns `[O, ...]` padded with zeros to whole blocks, `[B, 32, ...]`."""
    whole = F.pad(values, (0, 0) * (values.dim() - 1) + (0, -num_outputs % OUTPUTS))
    return whole.reshape(-1, OUTPUTS, *values.shape[1:]).contiguous()
