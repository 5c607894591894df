"""A softmax's peak and total on a CPU: two readings and nothing written, each row on its own, in one order.

R = rows, V = vocabulary.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from trimode.kernels.llvm.emitter import Emitter, Value
from trimode.kernels.llvm.jit import ParallelKernel, num_lanes, runs_here

_STRETCH = 64
"""Vectors summed one after the other; the sums of these stretches are summed in turn, which rounds less."""


def takes(logits_RV: torch.Tensor) -> bool:
    """Whether `softmax_total` takes this tensor on this machine."""
    fits = logits_RV.dim() == 2 and logits_RV.dtype == torch.float32 and logits_RV.stride(1) == 1
    return fits and runs_here(logits_RV) and logits_RV.shape[1] >= num_lanes()


def softmax_total(logits_RV: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`(peak, total)`, float32 `[R]`; `takes(logits)`. NaN in a row makes its total NaN."""
    peak_and_total = logits_RV.new_empty((2, logits_RV.shape[0]))
    _kernel(num_lanes())(
        logits_RV.shape[0], logits_RV.data_ptr(), logits_RV.stride(0), logits_RV.shape[1],
        peak_and_total[0].data_ptr(), peak_and_total[1].data_ptr(),
    )  # fmt: skip
    return peak_and_total[0], peak_and_total[1]


@functools.cache
def _kernel(lanes: int) -> ParallelKernel:
    """One item: a row. The last vector ends with the row; lanes of it that were read before do not count again."""

    def emit(e: Emitter, *args: Value) -> Callable[[Value], None]:
        logits, stride, width, peaks, totals = args
        vectors = e.parts(width, lanes)

        def emit_item(row: Value) -> None:
            source = e.at(logits, e.mul(row, stride), 4)

            def vector(number: Value) -> tuple[Value, Value]:
                """The logits, and how many of the first are old."""
                at = e.smaller(e.mul(number, lanes), e.sum(width, -lanes))
                return e.load(e.at(source, at, 4)), e.b.sub(e.mul(number, lanes), at)

            def larger(number: Value, peak: Value) -> list[Value]:
                return [e.larger(vector(number)[0], peak)]

            (peak,) = e.loop(vectors, larger, [e.load(source)])
            peak = e.across(peak, e.larger)

            def add(start: Value, number: Value, total: Value) -> list[Value]:
                logit, old = vector(e.sum(start, number))
                new = e.b.icmp_signed(">=", e.count_up(), e.splat(e.b.trunc(old, e.i32)))
                return [e.b.fadd(total, e.b.select(new, e.exp(e.b.fsub(logit, peak)), e.all(0.0)))]

            def stretch(number: Value, total: Value) -> list[Value]:
                start = e.mul(number, _STRETCH)
                count = e.smaller(e.b.sub(vectors, start), _STRETCH)
                (own,) = e.loop(count, functools.partial(add, start), [e.all(0.0)])
                return [e.b.fadd(total, own)]

            (total,) = e.loop(e.parts(vectors, _STRETCH), stretch, [e.all(0.0)])
            for result, array in ((peak, peaks), (e.across(total, e.b.fadd), totals)):
                e.store_first(result, e.at(array, row, 4), e.const(1))

        return emit_item

    return ParallelKernel(lanes, 5, emit)
