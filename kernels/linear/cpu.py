"""The product of rows with a weight matrix on a CPU: weights are read once, widened in registers, summed in float32.

oneDNN's bfloat16 instructions run at half the rate of float32 on CPUs without AMX. Here a bfloat16 weight costs the
reading of two bytes and half an instruction of widening, and float32 runs at its full rate. Every output is summed over
the inputs in one order, so the result of a row does not depend on the other rows, to the last bit.

T = rows, I = inputs, O = outputs, L = lanes of a vector, B = blocks of 2L outputs. A packed weight is `[B, I, L, 2]` in
bfloat16, where a vector of 32-bit words holds outputs n .. n + L in its low halves and n + L .. n + 2L in its high
ones, and `[B, I, 2, L]` in float32.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from trimode.kernels.llvm import jit
from trimode.kernels.llvm.emitter import Emitter, Value
from trimode.kernels.llvm.jit import ParallelKernel

PREFETCH_BYTES = 4096
"""Distance between a weight and the weight that is prefetched while it is used."""
_STRETCH = {2: 256, 4: 64}
"""Inputs summed one after the other, by bytes of an element. The sums of these stretches are added up in turn, which
rounds less: in float32 the error is about that of torch's product, in bfloat16 far below the last bit of the result."""
_X_BYTES = 1 << 20
"""Size of the float32 copy of the rows that are multiplied at a time: it stays in the L2 cache."""


def _tile_rows(lanes: int) -> int:
    """Rows whose sums fit the registers: two vectors each, beside two vectors of weights and one of the row's value."""
    return 14 if lanes == 16 else 6


def supports(weight_OI: torch.Tensor) -> str | None:
    """Returns None if `pack` takes this weight on this machine, otherwise the reason."""
    refused = jit.refusal(weight_OI)
    if refused is not None:
        return refused
    num_inputs = weight_OI.shape[1]
    whole = num_inputs > 0 and num_inputs % jit.num_lanes() == 0
    return None if whole else f"{num_inputs} inputs are no multiple of {jit.num_lanes()}"


def pack(weight_OI: torch.Tensor) -> torch.Tensor:
    """Returns the weight in blocks, its outputs padded with zeros to whole blocks."""
    lanes = jit.num_lanes()
    missing = -weight_OI.shape[0] % (2 * lanes)
    whole = F.pad(weight_OI, (0, 0, 0, missing)) if missing else weight_OI
    weight_B2LI = whole.reshape(-1, 2, lanes, weight_OI.shape[1])
    order = (0, 3, 2, 1) if weight_OI.dtype == torch.bfloat16 else (0, 3, 1, 2)
    return weight_B2LI.permute(order).contiguous()


def product(
    x_TI: torch.Tensor, packed: torch.Tensor, num_outputs: int, residual_TO: torch.Tensor | None = None
) -> torch.Tensor:
    """`x @ weight.T (+ residual)`, `[T, O]` in the dtype of x, rounded once; `packed` comes from `pack`."""
    blocks, num_inputs = packed.shape[:2]
    num_rows, width, lanes = x_TI.shape[0], blocks * packed.shape[2] * packed.shape[3], jit.num_lanes()
    if residual_TO is not None:
        residual_TO = F.pad(residual_TO, (0, width - num_outputs)) if width > num_outputs else residual_TO.contiguous()
    x_TI = x_TI if x_TI.stride(1) == 1 else x_TI.contiguous()
    y_TW = x_TI.new_empty((num_rows, width))
    size = x_TI.element_size()
    portion = max(_tile_rows(lanes), _X_BYTES // (4 * num_inputs))
    for start in range(0, num_rows, portion):
        rows = min(portion, num_rows - start)
        tiles = -(-rows // _tile_rows(lanes))
        values = _tiled(x_TI if rows == num_rows else x_TI[start : start + rows], tiles, lanes)
        offset = start * width * size
        _product_kernel(lanes, size)(
            blocks, values.data_ptr(), packed.data_ptr(), y_TW.data_ptr() + offset,
            0 if residual_TO is None else residual_TO.data_ptr() + offset, rows, num_inputs, width, tiles,
        )  # fmt: skip
    return y_TW if width == num_outputs else y_TW[:, :num_outputs].contiguous()


def _tiled(x_TI: torch.Tensor, tiles: int, lanes: int) -> torch.Tensor:
    """Returns x in float32, tile after tile, each transposed to `[I, rows of a tile]`, as the product reads it."""
    num_rows, num_inputs = x_TI.shape
    if num_rows == 1:
        return x_TI.float()
    tiled = x_TI.new_empty(tiles * num_inputs * -(-num_rows // tiles), dtype=torch.float32)
    kernel = _tile_kernel(lanes, x_TI.element_size())
    kernel(tiles * (num_inputs // lanes), x_TI.data_ptr(), x_TI.stride(0), tiled.data_ptr(), *x_TI.shape, tiles)
    return tiled


def _rows_of(e: Emitter, tile: Value, num_rows: Value, tiles: Value) -> tuple[Value, Value]:
    """Returns the first row of a tile and its number of rows. Tiles differ by at most one row."""
    small, larger = e.builder.udiv(num_rows, tiles), e.builder.urem(num_rows, tiles)
    return e.add(e.mul(tile, small), e.umin(tile, larger)), e.add(small, e.builder.zext(e.ult(tile, larger), e.i64))


@functools.cache
def _tile_kernel(lanes: int, size: int) -> ParallelKernel:
    """Work item: L inputs of a tile, padded to a square by repeating its last row."""

    def emit(e: Emitter, *args: Value) -> Callable[[Value], None]:
        x, x_stride, out, num_rows, num_inputs, tiles = args
        width = e.ceil_div(num_rows, tiles)
        groups = e.builder.udiv(num_inputs, e.const(lanes))

        def emit_item(item: Value) -> None:
            tile, first = e.builder.udiv(item, groups), e.mul(e.builder.urem(item, groups), lanes)
            row, count = _rows_of(e, tile, num_rows, tiles)
            last = e.add(row, count, -1)
            places = [e.mul(e.umin(e.add(row, n), last), x_stride) for n in range(lanes)]
            rows = [e.load(e.at(x, e.add(place, first), size), size) for place in places]
            target = e.mul(e.add(e.mul(tile, num_inputs), first), width)
            for n, column in enumerate(e.transpose(rows)):
                e.store_first(column, e.at(out, e.add(target, e.mul(width, n)), 4), width)

        return emit_item

    return ParallelKernel(lanes, 6, emit, small=True)


@functools.cache
def _product_kernel(lanes: int, size: int) -> ParallelKernel:
    """Work item: 2L outputs of all rows, in tiles of about equal size. Later tiles find the weights in the cache."""

    def emit(e: Emitter, *args: Value) -> Callable[[Value], None]:
        x, weight, y, residual, num_rows, num_inputs, width, tiles = args
        functions = [_tile_function(e, rows, size) for rows in range(1, _tile_rows(lanes) + 1)]
        x_stride = e.ceil_div(num_rows, tiles)
        added_to = e.builder.select(e.ult(0, residual), residual, y)  # any readable address will do

        def emit_item(item: Value) -> None:
            block = e.at(weight, e.mul(item, num_inputs), 2 * lanes * size)

            def tile(number: Value) -> None:
                row, rows = _rows_of(e, number, num_rows, tiles)
                values = e.at(x, e.mul(number, num_inputs, x_stride), 4)
                ahead = e.builder.select(e.ult(0, number), e.const(0), e.const(PREFETCH_BYTES))
                place = e.add(e.mul(row, width), e.mul(item, 2 * lanes))
                to = [values, x_stride, block, e.at(y, place, size), e.at(added_to, place, size), residual]
                after = e.builder.append_basic_block("tiled")
                choice = e.builder.switch(rows, after)
                for count, function in enumerate(functions, start=1):
                    e.builder.position_at_end(e.builder.append_basic_block(f"rows{count}"))
                    choice.add_case(e.const(count), e.builder.block)
                    e.builder.call(function, [*to, num_inputs, width, ahead])
                    e.builder.branch(after)
                e.builder.position_at_end(after)

            e.loop(tiles, tile)

        return emit_item

    return ParallelKernel(lanes, 8, emit)


def _tile_function(outer: Emitter, num_rows: int, size: int) -> Value:
    """`num_rows` rows by 2L outputs: `void(x, x_stride, block, y, residual, adds, num_inputs, width, ahead)`."""
    kinds = [outer.ptr, outer.i64, *[outer.ptr] * 3, *[outer.i64] * 4]
    function, e = outer.function(f"tile{num_rows}", kinds)
    x, x_stride, block, y, residual, adds, num_inputs, width, ahead = function.args

    totals = [e.scratch(e.lanes) for _ in range(2 * num_rows)]
    for total in totals:
        e.store(e.splat(0.0), total)

    def step(start: Value, i: Value, *sums: Value) -> list[Value]:
        at = e.at(block, e.add(start, i), 2 * e.lanes * size)
        for line in range(0, 2 * e.lanes * size, 64):
            e.prefetch(e.at(at, e.add(ahead, line), 1))
        weights = _two_vectors(e, at, size)
        values = e.at(x, e.mul(e.add(start, i), x_stride), 4)
        result = []
        for row in range(num_rows):
            value = e.load_one(e.at(values, row, 4))
            result += [e.fma(value, weights[half], sums[2 * row + half]) for half in (0, 1)]
        return result

    def stretch(number: Value) -> None:
        start = e.mul(number, _STRETCH[size])
        count = e.umin(e.builder.sub(num_inputs, start), _STRETCH[size])
        sums = e.loop(count, functools.partial(step, start), [e.splat(0.0)] * (2 * num_rows))
        for total, value in zip(totals, sums, strict=True):
            e.store(e.builder.fadd(e.load(total), value), total)

    e.loop(e.ceil_div(num_inputs, _STRETCH[size]), stretch)
    sums = [e.load(total) for total in totals]
    places = [e.add(e.mul(width, row), e.lanes * half) for row in range(num_rows) for half in (0, 1)]
    plain, added, done = e.builder.block, e.builder.append_basic_block("added"), e.builder.append_basic_block("done")
    e.builder.cbranch(e.ult(0, adds), added, done)
    e.builder.position_at_end(added)
    added_to = [
        e.builder.fadd(value, e.load(e.at(residual, at, size), size)) for value, at in zip(sums, places, strict=True)
    ]
    e.builder.branch(done)
    e.builder.position_at_end(done)
    results = [e.builder.phi(e.f32s) for _ in sums]
    for result, value, total in zip(results, sums, added_to, strict=True):
        result.add_incoming(value, plain)
        result.add_incoming(total, added)
    for result, at in zip(results, places, strict=True):
        e.store(result, e.at(y, at, size), size)
    e.builder.ret_void()
    return function


def _two_vectors(e: Emitter, pointer: Value, size: int) -> tuple[Value, Value]:
    """Loads the 2L weights of one input, as float32."""
    if size == 4:
        return e.load(pointer), e.load(e.at(pointer, e.lanes, 4))
    words = e.builder.load(pointer, typ=e.i32s, align=4)
    low, high = e.builder.shl(words, e.splat_i32(16)), e.builder.and_(words, e.splat_i32(-65536))
    return e.builder.bitcast(low, e.f32s), e.builder.bitcast(high, e.f32s)
