"""The best token and the softmax of rows of logits on a CPU: one pass for the maxima, one for the sum.

The kernel reads float32; other logits are widened first.

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
    """Returns None if `best_token` takes these logits on this machine, otherwise the reason."""
    refused = jit.refusal(logits_RV)
    if refused is not None:
        return refused
    if logits_RV.stride(1) != 1:
        return "the logits of a row are not contiguous"
    return None if jit.num_lanes() <= logits_RV.shape[1] < 2**31 else f"rows of {logits_RV.shape[1]} logits"


def best_token(
    logits_RV: torch.Tensor, suppressed: int | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """`(tokens, values, peak, total)`: int64 `[R]` and three times float32 `[R]`."""
    logits_RV = logits_RV.float()
    tokens_R = torch.empty(logits_RV.shape[0], dtype=torch.int64)
    values_3R = logits_RV.new_empty((3, logits_RV.shape[0]))
    _kernel(jit.num_lanes())(
        logits_RV.shape[0], logits_RV.data_ptr(), logits_RV.stride(0), logits_RV.shape[1],
        -1 if suppressed is None else suppressed, tokens_R.data_ptr(), *(row.data_ptr() for row in values_3R),
    )  # fmt: skip
    return tokens_R, values_3R[0], values_3R[1], values_3R[2]


def _larger(e: Emitter, value: Value, place: Value, best: Value, best_place: Value) -> list[Value]:
    """Per lane: the larger value with its place; of equal values the one with the lower place."""
    b = e.builder
    earlier = b.and_(b.fcmp_ordered("==", value, best), b.icmp_signed("<", place, best_place))
    better = b.or_(b.fcmp_ordered(">", value, best), earlier)
    return [b.select(better, value, best), b.select(better, place, best_place)]


@functools.cache
def _kernel(lanes: int) -> ParallelKernel:
    """Work item: one row. The last vector overlaps the one before it; lanes that were read before are not summed."""

    def emit(e: Emitter, *args: Value) -> Callable[[Value], None]:
        logits, stride, width, suppressed, tokens, values, peaks, totals = args
        vectors = e.ceil_div(width, lanes)
        refused = e.splat(e.builder.trunc(suppressed, e.i32))

        def emit_item(row: Value) -> None:
            source = e.at(logits, e.mul(row, stride), 4)

            def vector(number: Value) -> tuple[Value, Value]:
                """Returns a vector of logits and the place of its first lane."""
                at = e.umin(e.mul(number, lanes), e.add(width, -lanes))
                return e.load(e.at(source, at, 4)), at

            def look(number: Value, peak: Value, best: Value, best_place: Value) -> list[Value]:
                logit, at = vector(number)
                place = e.builder.add(e.splat(e.builder.trunc(at, e.i32)), e.iota())
                taken = e.builder.icmp_signed("!=", place, refused)
                allowed = e.builder.select(taken, logit, e.splat(float("-inf")))
                return [e.fmax(logit, peak), *_larger(e, allowed, place, best, best_place)]

            first = [e.load(source), e.splat(float("-inf")), e.iota()]
            peak, *found = e.loop(vectors, look, first)
            peak = e.reduce(peak, e.fmax)
            distance = lanes // 2
            while distance:
                found = _larger(e, *(e.swap(half, distance) for half in found), *found)
                distance //= 2
            total = _total(e, vector, vectors, peak)
            token = e.builder.zext(e.builder.extract_element(found[1], e.const(0)), e.i64)
            e.builder.store(token, e.at(tokens, row, 8), align=8)
            value = e.load_one(e.at(source, token, 4))
            for result, array in ((value, values), (peak, peaks), (total, totals)):
                e.store_first(result, e.at(array, row, 4), e.const(1))

        return emit_item

    return ParallelKernel(lanes, 8, emit)


def _total(e: Emitter, vector: Callable[[Value], tuple[Value, Value]], vectors: Value, peak: Value) -> Value:
    """Returns the sum of `exp(logit - peak)` over a row, in every lane."""

    def add(start: Value, number: Value, total: Value) -> list[Value]:
        logit, at = vector(e.add(start, number))
        old = e.builder.sub(e.mul(e.add(start, number), e.lanes), at)
        new = e.builder.icmp_signed(">=", e.iota(), e.splat(e.builder.trunc(old, e.i32)))
        return [e.builder.fadd(total, e.builder.select(new, e.exp(e.builder.fsub(logit, peak)), e.splat(0.0)))]

    def stretch(number: Value, total: Value) -> list[Value]:
        start = e.mul(number, _STRETCH)
        count = e.umin(e.builder.sub(vectors, start), _STRETCH)
        (own,) = e.loop(count, functools.partial(add, start), [e.splat(0.0)])
        return [e.builder.fadd(total, own)]

    (total,) = e.loop(e.ceil_div(vectors, _STRETCH), stretch, [e.splat(0.0)])
    return e.reduce(total, e.builder.fadd)
