"""RMSNorm on a CPU: in float32 from load to store, rounded once.

T = rows, H = hidden.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from trimode.kernels.llvm import jit
from trimode.kernels.llvm.emitter import Emitter, Value
from trimode.kernels.llvm.jit import Call, ParallelKernel


def supports(x_TH: torch.Tensor, weight_H: torch.Tensor) -> str | None:
    """Returns None if `rms_norm` takes these tensors on this machine, otherwise the reason."""
    refused = jit.refusal(x_TH, weight_H)
    if refused is not None:
        return refused
    if not (x_TH.is_contiguous() and weight_H.is_contiguous()):
        return "the rows are not contiguous"
    return None if x_TH.shape[1] % jit.num_lanes() == 0 else f"{x_TH.shape[1]} is no multiple of {jit.num_lanes()}"


def rms_norm(x_TH: torch.Tensor, weight_H: torch.Tensor, eps: float) -> torch.Tensor:
    """`x / sqrt(mean(x^2) + eps) * weight`, `[T, H]` in the dtype of x, rounded once."""
    out = torch.empty_like(x_TH)
    prepare(x_TH, weight_H, eps, out).run()
    return out


def prepare(x_TH: torch.Tensor, weight_H: torch.Tensor, eps: float, out_TH: torch.Tensor) -> Call:
    """Returns the call that writes the result into `out_TH`, which is contiguous."""
    kernel = _kernel(jit.num_lanes(), out_TH.element_size(), eps)
    return kernel.prepare(x_TH.shape[0], x_TH.data_ptr(), weight_H.data_ptr(), out_TH.data_ptr(), x_TH.shape[1])


@functools.cache
def _kernel(lanes: int, size: int, eps: float) -> ParallelKernel:
    """Work item: one row."""

    def emit(e: Emitter, x: Value, weight: Value, out: Value, width: Value) -> Callable[[Value], None]:
        vectors = e.builder.udiv(width, e.const(lanes))
        count = e.splat(e.builder.uitofp(width, e.f32))

        def emit_item(row: Value) -> None:
            source, target = e.at(x, e.mul(row, width), size), e.at(out, e.mul(row, width), size)

            def square(number: Value, total: Value) -> list[Value]:
                value = e.load(e.at(source, e.mul(number, lanes), size), size)
                return [e.fma(value, value, total)]

            (squares,) = e.loop(vectors, square, [e.splat(0.0)])
            mean = e.builder.fdiv(e.reduce(squares, e.builder.fadd), count)
            factor = e.builder.fdiv(e.splat(1.0), e.sqrt(e.builder.fadd(mean, e.splat(eps))))

            def scale(number: Value) -> None:
                at = e.mul(number, lanes)
                value, gain = (e.load(e.at(array, at, size), size) for array in (source, weight))
                e.store(e.builder.fmul(e.builder.fmul(value, factor), gain), e.at(target, at, size), size)

            e.loop(vectors, scale)

        return emit_item

    return ParallelKernel(lanes, 4, emit, small=True)
