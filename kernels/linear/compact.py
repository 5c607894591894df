"""The product of bfloat16 rows with a compact weight on a CPU with AVX512-BF16: weights are unpacked in registers.

The arithmetic is that of the product with plain bfloat16 pairs: stretches of 128 pairs of inputs are summed in
registers by `vdpbf16ps`, and the sums of stretches are added up in order. So a row's result does not depend on the
other rows, and 12-bit weights give the bits of the plain ones. int4: a stretch is a group of inputs, whose sum becomes
`scale * (sum - zero * sum of the row's inputs)`.

The rows are multiplied in tiles. The first tile has few rows, because its sums share the registers with the unpacking.
If there are more tiles, it also stores a stretch of unpacked weights in the L1 cache, and the other tiles read that.

T = rows, I = inputs, O = outputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from trimode.kernels.linear import integers, packed12
from trimode.kernels.linear.blocks import OUTPUTS, num_blocks
from trimode.kernels.linear.compact_kernel import FIRST_ROWS, STRETCH_STEPS, kernel, num_tiles
from trimode.kernels.linear.decode import Coding
from trimode.kernels.linear.quantized import MAX_INT8, QuantizedWeight, Scheme
from trimode.kernels.linear.rows import run_padded
from trimode.kernels.llvm import jit
from trimode.kernels.llvm.jit import Call
from trimode.kernels.llvm.tape import Scratch

_X_BYTES = 1 << 19
"""Size of the transposed rows that are multiplied at a time."""
_MAX_ROWS = 128
"""Most rows that are multiplied at a time."""
_INPUTS = 32
"""Inputs that are transposed at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compact:
    """A compact weight as the kernel reads it. B = blocks of 32 outputs, S = steps of a block, G = groups."""

    coding: Coding
    codes: torch.Tensor
    """`[B, S, ...]`."""
    scales: torch.Tensor
    """float32: what totals are multiplied with, `[B, 32]`; int4: what the sum of a group is, `[B, G, 32]`."""
    zeros: torch.Tensor | None = None
    """int4: float32 `[B, G, 32]`."""
    exceptions: tuple[torch.Tensor, ...] = ()
    """12 bits: `first_BE`, `places_E` and `raw_E` of Packed12."""
    group_steps: int = STRETCH_STEPS
    """Steps of a stretch."""
    num_outputs: int

    @property
    def nbytes(self) -> int:
        """Bytes of everything."""
        parts = (self.codes, self.scales, *self.exceptions)
        return sum(part.nbytes for part in parts) + (0 if self.zeros is None else self.zeros.nbytes)


def missing() -> str | None:
    """Returns None if the kernel runs on this CPU, otherwise what it lacks."""
    if jit.missing():
        return jit.missing()
    return None if jit.has_bf16_dot() and jit.has_byte_tables() else "a CPU without AVX512-BF16 and AVX512-VBMI"


def refusal_quantized(weight: QuantizedWeight) -> str | None:
    """Returns None if the kernel multiplies with this weight, otherwise the reason."""
    lacking = missing()
    if lacking is not None or not weight.codes.is_cpu:
        return lacking or f"no kernel for {weight.codes.device.type}"
    if weight.scheme not in (Scheme.w8a16, Scheme.w4a16):
        return f"no CPU kernel for {weight.scheme.value}"
    if weight.dtype != torch.bfloat16:
        return f"no CPU kernel for rows in {weight.dtype}"
    if weight.num_outputs == 0 or weight.num_inputs == 0 or weight.num_inputs % _INPUTS:
        return f"{weight.num_inputs} inputs are no multiple of {_INPUTS}"
    if weight.scheme is Scheme.w8a16 and int(weight.codes.min()) < -MAX_INT8:
        return f"a code is {int(weight.codes.min())}, and the CPU kernel's are -{MAX_INT8} to {MAX_INT8}"
    return None


def pack(weight_OI: torch.Tensor) -> Compact | str:
    """Returns a plain weight in 12 bits, or why it should stay as it is."""
    lacking = missing()
    if lacking is not None or not weight_OI.is_cpu:
        return lacking or f"no kernel for {weight_OI.device.type}"
    if weight_OI.shape[1] % _INPUTS:
        return f"{weight_OI.shape[1]} inputs are no multiple of {_INPUTS}"
    packed = packed12.pack(weight_OI)
    if isinstance(packed, str):
        return packed
    return Compact(
        coding=Coding.BITS12,
        codes=packed.words,
        scales=torch.full((num_blocks(packed.num_outputs), OUTPUTS), packed.scale, dtype=torch.float32),
        exceptions=(packed.first_BE, packed.places_E, packed.raw_E),
        num_outputs=packed.num_outputs,
    )


def pack_quantized(weight: QuantizedWeight) -> Compact:
    """Returns a quantised weight in blocks; `refusal_quantized` must be None."""
    packed = integers.pack(weight)
    return Compact(
        coding=Coding.INT8 if weight.scheme is Scheme.w8a16 else Coding.INT4,
        codes=packed.codes,
        scales=packed.scales,
        zeros=packed.zeros,
        group_steps=packed.group_steps or STRETCH_STEPS,
        num_outputs=packed.num_outputs,
    )


def product(x_TI: torch.Tensor, weight: Compact, residual_TO: torch.Tensor | None = None) -> torch.Tensor:
    """`x @ weight.T (+ residual)`, `[T, O]` in bfloat16, rounded once."""
    width = OUTPUTS * weight.codes.shape[0]

    def prepare_calls(x: torch.Tensor, residual: torch.Tensor | None, y: torch.Tensor, _: Scratch) -> list[Call]:
        return prepare(x, weight, residual, y)

    return run_padded(prepare_calls, x_TI, width, weight.num_outputs, residual_TO)


def prepare(x_TI: torch.Tensor, weight: Compact, residual_TW: torch.Tensor | None, y_TW: torch.Tensor) -> list[Call]:
    """Returns the calls that write the product into `y_TW`. W = outputs padded to whole blocks.

    The inputs of a row of x stand one behind the other; y and residual are contiguous.
    """
    blocks, steps = weight.codes.shape[:2]
    num_rows, width = y_TW.shape
    portion = max(FIRST_ROWS, min(_MAX_ROWS, _X_BYTES // (8 * steps)))
    lists = [part.data_ptr() for part in weight.exceptions] or [0, 0, 0]
    calls = []
    for start in range(0, num_rows, portion):
        rows, offset = min(portion, num_rows - start), 2 * start * width
        calls.append(kernel(weight.coding, rows > FIRST_ROWS).prepare(
            blocks, x_TI.data_ptr() + 2 * start * x_TI.stride(0), 2 * x_TI.stride(0), weight.codes.data_ptr(),
            weight.scales.data_ptr(), 0 if weight.zeros is None else weight.zeros.data_ptr(), *lists,
            y_TW.data_ptr() + offset, 0 if residual_TW is None else residual_TW.data_ptr() + offset, rows, steps,
            width, num_tiles(rows), weight.group_steps,
        ))  # fmt: skip
    return calls
