"""The product of rows with a float32 weight on a CPU: weights are read once, sums are float32.

Every output is summed over the inputs in one order, so the result of a row does not depend on the other rows, to the
last bit. For bfloat16 weights see `trimode.kernels.linear.bf16`.

T = rows, I = inputs, O = outputs, L = lanes of a vector, B = blocks of 2L outputs. A packed weight is `[B, I, 2, L]`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from trimode.kernels.linear.rows import refusal, rows_of, run_padded, tile_rows
from trimode.kernels.llvm import jit
from trimode.kernels.llvm.emitter import Emitter, Value
from trimode.kernels.llvm.jit import Call, ParallelKernel
from trimode.kernels.llvm.tape import Scratch

PREFETCH_BYTES = 4096
"""Distance between a weight and the weight that is prefetched while it is used."""
_STRETCH = 64
"""Inputs summed one after the other. The sums of these stretches are added up in turn, which rounds less: the error is
about that of torch's product."""
_X_BYTES = 1 << 20
"""Size of the rows that are multiplied at a time: they stay in the L2 cache."""


def supports(weight_OI: torch.Tensor) -> str | None:
    """Returns None if `pack` takes this weight on this machine, otherwise the reason."""
    return refusal(weight_OI, torch.float32, "this kernel multiplies with")


def pack(weight_OI: torch.Tensor) -> torch.Tensor:
    """Returns the weight in blocks, its outputs padded with zeros to whole blocks."""
    lanes = jit.num_lanes()
    missing = -weight_OI.shape[0] % (2 * lanes)
    whole = F.pad(weight_OI, (0, 0, 0, missing)) if missing else weight_OI
    return whole.reshape(-1, 2, lanes, weight_OI.shape[1]).permute(0, 3, 1, 2).contiguous()


def product(
    x_TI: torch.Tensor, packed: torch.Tensor, num_outputs: int, residual_TO: torch.Tensor | None = None
) -> torch.Tensor:
    """`x @ weight.T (+ residual)`, `[T, O]` in float32; `packed` comes from `pack`."""
    width = 2 * packed.shape[0] * jit.num_lanes()

    def prepare_calls(
        x_TI: torch.Tensor, residual_TW: torch.Tensor | None, y_TW: torch.Tensor, scratch: Scratch
    ) -> list[Call]:
        return prepare(x_TI, packed, residual_TW, y_TW, scratch)

    return run_padded(prepare_calls, x_TI, width, num_outputs, residual_TO)


def prepare(
    x_TI: torch.Tensor, packed: torch.Tensor, residual_TW: torch.Tensor | None, y_TW: torch.Tensor, scratch: Scratch
) -> list[Call]:
    """Returns the calls that write the product into `y_TW`. W = outputs padded to whole blocks.

    The inputs of a row of x stand one behind the other; y and residual are contiguous.
    """
    lanes, (num_rows, num_inputs), width = jit.num_lanes(), x_TI.shape, y_TW.shape[1]
    residual = 0 if residual_TW is None else residual_TW.data_ptr()
    calls = []
    portion = max(tile_rows(lanes), _X_BYTES // (4 * num_inputs))
    for start in range(0, num_rows, portion):
        rows = min(portion, num_rows - start)
        tiles = -(-rows // tile_rows(lanes))
        values, offset = x_TI.data_ptr() + 4 * start * x_TI.stride(0), 4 * start * width
        if num_rows > 1:  # tile after tile, each transposed to `[I, rows of a tile]`, as the product reads it
            tiled = scratch.room(4 * tiles * num_inputs * -(-rows // tiles))
            items = tiles * (num_inputs // lanes)
            calls.append(_tile_kernel(lanes).prepare(items, values, x_TI.stride(0), tiled, rows, num_inputs, tiles))
            values = tiled
        calls.append(_product_kernel(lanes).prepare(
            packed.shape[0], values, packed.data_ptr(), y_TW.data_ptr() + offset, residual and residual + offset, rows,
            num_inputs, width, tiles,
        ))  # fmt: skip
    return calls


@functools.cache
def _tile_kernel(lanes: int) -> ParallelKernel:
    """Work item: L inputs of a tile, padded to a square by repeating its last row."""

    def emit(e: Emitter, *args: Value) -> Callable[[Value], None]:
        x, x_stride, out, num_rows, num_inputs, tiles = args
        width = e.ceil_div(num_rows, tiles)
        groups = e.builder.udiv(num_inputs, e.const(lanes))

        def emit_item(item: Value) -> None:
            tile, first = e.builder.udiv(item, groups), e.mul(e.builder.urem(item, groups), lanes)
            row, count = rows_of(e, tile, num_rows, tiles)
            last = e.add(row, count, -1)
            places = [e.mul(e.umin(e.add(row, n), last), x_stride) for n in range(lanes)]
            rows = [e.load(e.at(x, e.add(place, first), 4)) for place in places]
            target = e.mul(e.add(e.mul(tile, num_inputs), first), width)
            for n, column in enumerate(e.transpose(rows)):
                e.store_first(column, e.at(out, e.add(target, e.mul(width, n)), 4), width)

        return emit_item

    return ParallelKernel(lanes, 6, emit, small=True)


@functools.cache
def _product_kernel(lanes: int) -> ParallelKernel:
    """Work item: 2L outputs of all rows, in tiles of about equal size. Later tiles find the weights in the cache."""

    def emit(e: Emitter, *args: Value) -> Callable[[Value], None]:
        x, weight, y, residual, num_rows, num_inputs, width, tiles = args
        functions = [_tile_function(e, rows) for rows in range(1, tile_rows(lanes) + 1)]
        x_stride = e.ceil_div(num_rows, tiles)
        added_to = e.builder.select(e.ult(0, residual), residual, y)  # any readable address will do

        def emit_item(item: Value) -> None:
            block = e.at(weight, e.mul(item, num_inputs), 8 * lanes)

            def tile(number: Value) -> None:
                row, rows = rows_of(e, number, num_rows, tiles)
                values = e.at(x, e.mul(number, num_inputs, x_stride), 4)
                ahead = e.builder.select(e.ult(0, number), e.const(0), e.const(PREFETCH_BYTES))
                place = e.add(e.mul(row, width), e.mul(item, 2 * lanes))
                to = [values, x_stride, block, e.at(y, place, 4), e.at(added_to, place, 4), residual]
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


def _tile_function(outer: Emitter, num_rows: int) -> Value:
    """`num_rows` rows by 2L outputs: `void(x, x_stride, block, y, residual, adds, num_inputs, width, ahead)`."""
    kinds = [outer.ptr, outer.i64, *[outer.ptr] * 3, *[outer.i64] * 4]
    function, e = outer.function(f"tile{num_rows}", kinds)
    x, x_stride, block, y, residual, adds, num_inputs, width, ahead = function.args

    totals = [e.scratch(e.lanes) for _ in range(2 * num_rows)]
    for total in totals:
        e.store(e.splat(0.0), total)

    def step(start: Value, i: Value, *sums: Value) -> list[Value]:
        at = e.at(block, e.add(start, i), 8 * e.lanes)
        for line in range(0, 8 * e.lanes, 64):
            e.prefetch(e.at(at, e.add(ahead, line), 1))
        weights = e.load(at), e.load(e.at(at, e.lanes, 4))
        values = e.at(x, e.mul(e.add(start, i), x_stride), 4)
        result = []
        for row in range(num_rows):
            value = e.load_one(e.at(values, row, 4))
            result += [e.fma(value, weights[half], sums[2 * row + half]) for half in (0, 1)]
        return result

    def stretch(number: Value) -> None:
        start = e.mul(number, _STRETCH)
        count = e.umin(e.builder.sub(num_inputs, start), _STRETCH)
        sums = e.loop(count, functools.partial(step, start), [e.splat(0.0)] * (2 * num_rows))
        for total, value in zip(totals, sums, strict=True):
            e.store(e.builder.fadd(e.load(total), value), total)

    e.loop(e.ceil_div(num_inputs, _STRETCH), stretch)
    sums = [e.load(total) for total in totals]
    places = [e.add(e.mul(width, row), e.lanes * half) for row in range(num_rows) for half in (0, 1)]
    plain, added, done = e.builder.block, e.builder.append_basic_block("added"), e.builder.append_basic_block("done")
    e.builder.cbranch(e.ult(0, adds), added, done)
    e.builder.position_at_end(added)
    added_to = [e.builder.fadd(value, e.load(e.at(residual, at, 4))) for value, at in zip(sums, places, strict=True)]
    e.builder.branch(done)
    e.builder.position_at_end(done)
    results = [e.builder.phi(e.f32s) for _ in sums]
    for result, value, total in zip(results, sums, added_to, strict=True):
        result.add_incoming(value, plain)
        result.add_incoming(total, added)
    for result, at in zip(results, places, strict=True):
        e.store(result, e.at(y, at, 4))
    e.builder.ret_void()
    return function
