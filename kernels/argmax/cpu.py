"""Argmax of rows on a CPU, as fast as the rows can be read; torch's own compares one value at a time.

R = rows, V = values of a row.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from trimode.kernels.llvm import jit
from trimode.kernels.llvm.emitter import Emitter, Value
from trimode.kernels.llvm.jit import ParallelKernel


def supports(values_RV: torch.Tensor) -> str | None:
    """Returns None if `argmax` takes these values on this machine, otherwise the reason."""
    refused = jit.refusal(values_RV)
    if refused is not None:
        return refused
    if values_RV.dtype != torch.float32:
        return f"no CPU kernel for {values_RV.dtype}"
    if values_RV.stride(1) != 1:
        return "the values of a row are not contiguous"
    if not jit.num_lanes() <= values_RV.shape[1] < 2**31:
        return f"rows of {values_RV.shape[1]} values"
    return None


def argmax(values_RV: torch.Tensor) -> torch.Tensor:
    """int64 `[R]`: the first index of the largest value of each row; any index if the row holds NaN."""
    places_R = torch.empty(values_RV.shape[0], dtype=torch.int64)
    kernel = _kernel(jit.num_lanes())
    kernel(places_R.shape[0], values_RV.data_ptr(), values_RV.stride(0), values_RV.shape[1], places_R.data_ptr())
    return places_R


@functools.cache
def _kernel(lanes: int) -> ParallelKernel:
    """Work item: one row. The last vector overlaps the one before it; rereading a value cannot change an argmax."""

    def emit(e: Emitter, values: Value, stride: Value, width: Value, places: Value) -> Callable[[Value], None]:
        def larger(value: Value, place: Value, best: Value, best_place: Value) -> list[Value]:
            """Per lane: the larger value with its index; of equal values the one with the lower index."""
            earlier = e.builder.and_(
                e.builder.fcmp_ordered("==", value, best), e.builder.icmp_signed("<", place, best_place)
            )
            better = e.builder.or_(e.builder.fcmp_ordered(">", value, best), earlier)
            return [e.builder.select(better, value, best), e.builder.select(better, place, best_place)]

        def emit_item(row: Value) -> None:
            source = e.at(values, e.mul(row, stride), 4)

            def vector(number: Value, best: Value, best_place: Value) -> list[Value]:
                at = e.umin(e.mul(number, lanes), e.add(width, -lanes))
                place = e.builder.add(e.splat(e.builder.trunc(at, e.i32)), e.iota())
                return larger(e.load(e.at(source, at, 4)), place, best, best_place)

            vectors = e.ceil_div(width, lanes)
            found = e.loop(vectors, vector, [e.load(source), e.iota()])
            distance = lanes // 2
            while distance:
                found = larger(*(e.swap(half, distance) for half in found), *found)
                distance //= 2
            place = e.builder.extract_element(found[1], e.const(0))
            e.builder.store(e.builder.zext(place, e.i64), e.at(places, row, 8), align=8)

        return emit_item

    return ParallelKernel(lanes, 4, emit)
