"""The maximum and the denominator of a softmax on a CPU: two passes over a row, summed in a fixed order.

R = rows, V = vocabulary.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from trimode.kernels.llvm import jit
from trimode.kernels.llvm.emitter import Emitter, Value
from trimode.kernels.llvm.jit import ParallelKernel

_STRETCH = 64
"""Vectors summed one after the other. The sums of these stretches are added up in turn, which rounds less."""


def supports(logits_RV: torch.Tensor) -> str | None:
    """Returns None if `softmax_total` takes these logits on this machine, otherwise the reason."""
    refused = jit.refusal(logits_RV)
    if refused is not None:
        return refused
    if logits_RV.stride(1) != 1:
        return "the logits of a row are not contiguous"
    return None if logits_RV.shape[1] >= jit.num_lanes() else f"rows of {logits_RV.shape[1]} logits"


def softmax_total(logits_RV: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`(peak, total)`, each float32 `[R]`; NaN in a row makes its total NaN."""
    peak_and_total = logits_RV.new_empty((2, logits_RV.shape[0]))
    _kernel(jit.num_lanes())(
        logits_RV.shape[0], logits_RV.data_ptr(), logits_RV.stride(0), logits_RV.shape[1],
        peak_and_total[0].data_ptr(), peak_and_total[1].data_ptr(),
    )  # fmt: skip
    return peak_and_total[0], peak_and_total[1]


@functools.cache
def _kernel(lanes: int) -> ParallelKernel:
    """Work item: one row. The last vector overlaps the one before it; lanes that were read before do not count."""

    def emit(e: Emitter, *args: Value) -> Callable[[Value], None]:
        logits, stride, width, peaks, totals = args
        vectors = e.ceil_div(width, lanes)

        def emit_item(row: Value) -> None:
            source = e.at(logits, e.mul(row, stride), 4)

            def vector(number: Value) -> tuple[Value, Value]:
                """Returns a vector of logits and the number of its first lanes that an earlier vector has covered."""
                at = e.umin(e.mul(number, lanes), e.add(width, -lanes))
                return e.load(e.at(source, at, 4)), e.builder.sub(e.mul(number, lanes), at)

            def larger(number: Value, peak: Value) -> list[Value]:
                return [e.fmax(vector(number)[0], peak)]

            (peak,) = e.loop(vectors, larger, [e.load(source)])
            peak = e.reduce(peak, e.fmax)

            def add(start: Value, number: Value, total: Value) -> list[Value]:
                logit, old = vector(e.add(start, number))
                new = e.builder.icmp_signed(">=", e.iota(), e.splat(e.builder.trunc(old, e.i32)))
                return [e.builder.fadd(total, e.builder.select(new, e.exp(e.builder.fsub(logit, peak)), e.splat(0.0)))]

            def stretch(number: Value, total: Value) -> list[Value]:
                start = e.mul(number, _STRETCH)
                count = e.umin(e.builder.sub(vectors, start), _STRETCH)
                (own,) = e.loop(count, functools.partial(add, start), [e.splat(0.0)])
                return [e.builder.fadd(total, own)]

            (total,) = e.loop(e.ceil_div(vectors, _STRETCH), stretch, [e.splat(0.0)])
            for result, array in ((peak, peaks), (e.reduce(total, e.builder.fadd), totals)):
                e.store_first(result, e.at(array, row, 4), e.const(1))

        return emit_item

    return ParallelKernel(lanes, 5, emit)
