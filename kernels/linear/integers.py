"""8-bit and 4-bit weights in the order in which the CPU kernels read them.

int8: two vectors of 64 bytes a step, sign and magnitude. Unpacking interleaves bytes within each quarter of a vector,
so bytes 16q + 8h + r belong to word 8q + r of vector h. int4: one vector a step, whose 16-bit word holds the codes of
the four vectors, the first in its lowest bits.

B = blocks, S = steps of a block, G = groups of inputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from trimode.kernels.linear.blocks import blocks_at_once, per_output, to_steps
from trimode.kernels.linear.quantized import SYMMETRIC_ZERO, QuantizedWeight, Scheme, unpack


@dataclass(frozen=True, slots=True, kw_only=True)
class Integers:
    """A quantised matrix in blocks."""

    codes: torch.Tensor
    """int8: int8 `[B, S, 128]`; int4: int16 `[B, S, 32]`."""
    scales: torch.Tensor
    """float32; int8: `[B, 32]`; int4: `[B, G, 32]`."""
    zeros: torch.Tensor | None
    """int4: float32 `[B, G, 32]`, the zero of a group plus the 16 that codes are read with; int8: None."""
    group_steps: int
    """Steps that share a scale; int8: 0."""
    num_outputs: int

    @property
    def nbytes(self) -> int:
        """Bytes of everything."""
        return self.codes.nbytes + self.scales.nbytes + (0 if self.zeros is None else self.zeros.nbytes)


def pack(weight: QuantizedWeight) -> Integers:
    """Returns a weight of w8a16 or w4a16 in blocks."""
    at_once = 32 * blocks_at_once(weight.num_inputs)
    if weight.scheme is Scheme.w8a16:
        parts = [_bytes(codes) for codes in weight.codes.split(at_once)]
        return Integers(
            codes=torch.cat(parts),
            scales=per_output(weight.scales, weight.num_outputs),
            zeros=None,
            group_steps=0,
            num_outputs=weight.num_outputs,
        )
    assert weight.group_size is not None
    parts = [_nibbles(unpack(codes)) for codes in weight.codes.split(at_once)]
    zeros = torch.full_like(weight.scales, SYMMETRIC_ZERO) if weight.zeros is None else weight.zeros.float()
    return Integers(
        codes=torch.cat(parts),
        scales=per_output(weight.scales, weight.num_outputs).transpose(1, 2).contiguous(),
        zeros=per_output(zeros + 16, weight.num_outputs).transpose(1, 2).contiguous(),
        group_steps=weight.group_size // 4,
        num_outputs=weight.num_outputs,
    )


def _bytes(codes_OI: torch.Tensor) -> torch.Tensor:
    """Returns int8 codes as bytes of sign and magnitude, `[B, S, 128]`."""
    negative = codes_OI < 0
    magnitude = codes_OI.abs().view(torch.uint8) | (negative.to(torch.uint8) << 7)
    steps = to_steps(magnitude)
    blocks, count = steps.shape[:2]
    return steps.view(blocks, count, 2, 2, 4, 8).transpose(3, 4).reshape(blocks, count, 128).view(torch.int8)


def _nibbles(codes_OI: torch.Tensor) -> torch.Tensor:
    """Returns 4-bit codes as words of four, `[B, S, 32]`."""
    n0, n1, n2, n3 = to_steps(codes_OI.to(torch.int16)).unbind(2)
    return n0 | n1 << 4 | n2 << 8 | n3 << 12
