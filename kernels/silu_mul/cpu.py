"""SwiGLU's activation on a CPU: one pass, in float32 from load to store.

T = rows, J = twice the intermediate size.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from trimode.kernels.llvm import jit
from trimode.kernels.llvm.emitter import Emitter, Value
from trimode.kernels.llvm.jit import Call, ParallelKernel


def supports(gate_up_TJ: torch.Tensor) -> str | None:
    """Returns None if `silu_mul` takes these rows on this machine, otherwise the reason."""
    refused = jit.refusal(gate_up_TJ)
    if refused is not None:
        return refused
    if not gate_up_TJ.is_contiguous():
        return "the rows are not contiguous"
    whole = gate_up_TJ.shape[1] % (2 * jit.num_lanes()) == 0
    return None if whole else f"{gate_up_TJ.shape[1] // 2} outputs are no multiple of {jit.num_lanes()}"


def silu_mul(gate_up_TJ: torch.Tensor) -> torch.Tensor:
    """`silu(gate) * up`, `[T, J / 2]`, rounded once."""
    num_rows, width = gate_up_TJ.shape
    out = gate_up_TJ.new_empty((num_rows, width // 2))
    prepare(gate_up_TJ, out).run()
    return out


def prepare(gate_up_TJ: torch.Tensor, out_TI: torch.Tensor) -> Call:
    """Returns the call that writes the result into `out_TI`, `[T, J / 2]`, which is contiguous."""
    kernel = _kernel(jit.num_lanes(), out_TI.element_size())
    return kernel.prepare(out_TI.shape[0], gate_up_TJ.data_ptr(), out_TI.data_ptr(), out_TI.shape[1])


@functools.cache
def _kernel(lanes: int, size: int) -> ParallelKernel:
    """Work item: one row."""

    def emit(e: Emitter, gate_up: Value, out: Value, width: Value) -> Callable[[Value], None]:
        def emit_item(row: Value) -> None:
            gates, target = e.at(gate_up, e.mul(row, width, 2), size), e.at(out, e.mul(row, width), size)
            ups = e.at(gates, width, size)

            def vector(number: Value) -> None:
                at = e.mul(number, lanes)
                gate, up = (e.load(e.at(source, at, size), size) for source in (gates, ups))
                one = e.splat(1.0)
                sigmoid = e.builder.fdiv(one, e.builder.fadd(one, e.exp(e.builder.fneg(gate))))
                e.store(e.builder.fmul(e.builder.fmul(gate, sigmoid), up), e.at(target, at, size), size)

            e.loop(e.builder.udiv(width, e.const(lanes)), vector)

        return emit_item

    return ParallelKernel(lanes, 3, emit, small=True)
