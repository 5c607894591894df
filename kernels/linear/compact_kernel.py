"""The kernel around the tiles: it gives blocks to threads, transposes the rows, and rounds the totals.

A row is read as 32-bit words, each a pair of inputs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from trimode.kernels.linear.compact_tiles import STEP_BYTES, Source, tile_function
from trimode.kernels.linear.decode import DECODERS, Coding
from trimode.kernels.llvm.emitter import Emitter, Value
from trimode.kernels.llvm.ranges import RangeKernel

LANES = 16
FIRST_ROWS = 10
"""Most rows of a tile that unpacks: its sums share the registers with the unpacking."""
TILE_ROWS = 14
"""Most rows of a tile that reads unpacked weights."""
STRETCH_STEPS = 64
"""Most steps whose products are summed in registers."""
_AHEAD = 4096
"""Bytes between a weight and the one that a single tile asks for; several tiles ask for the next stretch."""


def num_tiles(rows: int) -> int:
    """Returns the tiles of a call with so many rows."""
    return 1 + max(0, -(-(rows - FIRST_ROWS) // TILE_ROWS))


@dataclass(frozen=True, slots=True)
class _Tiles:
    """The rows of a call in tiles: a first one, and others of about equal size."""

    first: Value
    """Rows of the first tile."""
    others: Value
    """Number of the other tiles."""
    small: Value
    larger: Value

    def place(self, e: Emitter, tile: Value) -> tuple[Value, Value]:
        """Returns the first row and the number of rows of one of the other tiles, numbered from 0."""
        row = e.add(self.first, e.mul(tile, self.small), e.umin(tile, self.larger))
        return row, e.add(self.small, e.builder.zext(e.ult(tile, self.larger), e.i64))


@dataclass(frozen=True, slots=True)
class _Rows:
    """The rows of a call."""

    x: Value
    stride: Value
    """In bytes."""
    count: Value
    pairs: Value
    """Words of a row."""
    groups: Value
    """Groups whose inputs are summed; 0 = none."""
    tiles: _Tiles


@dataclass(frozen=True, slots=True)
class _Own:
    """What a thread has for itself."""

    values: Value
    """The rows, transposed tile by tile: `[pair, row of the tile]`."""
    sums: Value
    """float32 `[group, row]`."""
    totals: Value
    """float32 `[row, 32]`."""
    unpacked: Value
    """A stretch of weights in bfloat16."""
    cursor: Value
    """i64: the next exception."""


@functools.cache
def kernel(coding: Coding, several: bool) -> RangeKernel:
    """Returns the kernel. Work item: a block of 32 outputs. `several`: there are more tiles than the first.

    Arguments: x, bytes between its rows, codes, scales, zeros, first exceptions, their places, their weights, y,
    residual or 0, rows, steps of a row, outputs of a row of y, tiles, steps of a stretch.
    """
    decoder = DECODERS[coding]

    def emit(e: Emitter, _thread: Value, *args: Value) -> Callable[[Value, Value], None]:
        x, stride, codes, scales, zeros, first_places, places, raw, y, residual, count, steps, width, tiles, group = (
            args
        )
        stretches = e.ceil_div(steps, group)
        groups = stretches if coding is Coding.INT4 else e.const(0)
        rows = _Rows(x, stride, count, e.mul(steps, 2), groups, _tiles(e, count, tiles))
        unpacking, reading = _tile_functions(e, coding, several=several)
        own = _prepare(e, rows)
        share = e.builder.udiv(e.const(decoder.step_bytes), tiles)
        stretch_bytes = e.mul(group, decoder.step_bytes)

        def emit_stretch(block: Value, number: Value) -> None:
            step = e.mul(number, group)
            place = e.add(e.mul(block, steps), step)
            at = e.at(codes, place, decoder.step_bytes)
            of_group = e.mul(e.add(e.mul(block, groups), number), 32)

            def run(functions: dict[int, Value], row: Value, size: Value, ahead: Value) -> None:
                values = e.at(own.values, e.add(e.mul(row, rows.pairs), e.mul(step, 2, size)), 4)
                sums = e.at(own.sums, e.add(e.mul(number, count), row), 4)
                totals = e.at(own.totals, e.mul(row, 32), 4)
                call = [values, sums, totals, e.at(scales, of_group, 4), e.at(zeros, of_group, 4)]
                call += [e.umin(e.builder.sub(steps, step), group), at, own.unpacked, ahead, share]
                _switch(e, functions, size, [*call, own.cursor, places, raw, place])

            run(unpacking, e.const(0), rows.tiles.first, e.at(at, stretch_bytes if several else _AHEAD, 1))
            if several:

                def other(tile: Value) -> None:
                    part = e.mul(share, group, e.add(tile, 1))
                    run(reading, *rows.tiles.place(e, tile), e.at(at, e.add(stretch_bytes, part), 1))

                e.loop(rows.tiles.others, other)

        def emit_block(block: Value) -> None:
            e.loop(e.mul(count, 2), lambda n: e.store(e.splat(0.0), e.at(own.totals, n, 4 * LANES)))
            if coding is Coding.BITS12:
                e.builder.store(e.load_i32(first_places, block), own.cursor, align=8)
            e.loop(stretches, functools.partial(emit_stretch, block))
            scale = None if coding is Coding.INT4 else e.at(scales, e.mul(block, 32), 4)
            _each_row(e, count, functools.partial(_finish, e, own.totals, scale, (block, width, y, residual)))

        def emit_range(first: Value, end: Value) -> None:
            e.loop(e.builder.sub(end, first), lambda n: emit_block(e.add(first, n)))

        return emit_range

    return RangeKernel(LANES, 15, emit)


def _tiles(e: Emitter, rows: Value, tiles: Value) -> _Tiles:
    first = e.umin(e.ceil_div(rows, tiles), FIRST_ROWS)
    others = e.builder.sub(tiles, e.const(1))
    left, divisor = e.builder.sub(rows, first), e.builder.select(e.ult(0, others), others, e.const(1))
    return _Tiles(first, others, e.builder.udiv(left, divisor), e.builder.urem(left, divisor))


def _tile_functions(e: Emitter, coding: Coding, *, several: bool) -> tuple[dict[int, Value], dict[int, Value]]:
    """Returns the functions of the first tile and those of the others, by their rows."""
    sizes = [(num_tiles(rows), rows) for rows in range(1, 200) if (num_tiles(rows) > 1) == several]
    firsts = {min(FIRST_ROWS, -(-rows // tiles)) for tiles, rows in sizes}
    others = {
        size
        for tiles, rows in sizes
        if tiles > 1
        for left in [rows - min(FIRST_ROWS, -(-rows // tiles))]
        for size in (left // (tiles - 1), -(-left // (tiles - 1)))
    }
    source = Source.STORE if several else Source.UNPACK
    return (
        {rows: tile_function(e, rows, source, coding) for rows in sorted(firsts)},
        {rows: tile_function(e, rows, Source.READ, coding) for rows in sorted(others)},
    )


def _prepare(e: Emitter, rows: _Rows) -> _Own:
    """Transposes the rows, but not a single one, which is read where it is, and sums them over groups."""
    copied = e.mul(rows.count, rows.pairs)
    single = e.ult(rows.count, 2)
    values = _room(e, e.builder.select(single, e.const(16), copied))
    own = _Own(
        values=e.builder.select(single, e.builder.inttoptr(rows.x, e.ptr), values),
        sums=_room(e, e.add(e.mul(rows.groups, rows.count), 16)),
        totals=_room(e, e.mul(rows.count, 32)),
        unpacked=_room(e, e.const(STRETCH_STEPS * STEP_BYTES // 4)),
        cursor=_room(e, e.const(16)),
    )

    def transpose_all() -> None:
        _transpose(e, rows, e.const(0), rows.tiles.first, values)
        _when(e, e.ult(0, rows.tiles.others), lambda: e.loop(rows.tiles.others, other))

    def other(tile: Value) -> None:
        _transpose(e, rows, *rows.tiles.place(e, tile), values)

    _when(e, e.ult(1, rows.count), transpose_all)
    _when(e, e.ult(0, rows.groups), lambda: _each_row(e, rows.count, lambda row: _sum_groups(e, rows, row, own.sums)))
    return own


def _transpose(e: Emitter, rows: _Rows, row: Value, size: Value, values: Value) -> None:
    """Transposes the rows of a tile, 16 words at a time, padded to a square by repeating its last row."""
    last, target = e.add(row, size, -1), e.mul(row, rows.pairs)
    lines = [e.mul(e.umin(e.add(row, n), last), rows.stride) for n in range(LANES)]

    def words(number: Value) -> None:
        square = [e.load(e.at(rows.x, e.add(line, e.mul(number, 4 * LANES)), 1)) for line in lines]
        for n, column in enumerate(e.transpose(square)):
            place = e.add(target, e.mul(e.add(e.mul(number, LANES), n), size))
            e.store_first(column, e.at(values, place, 4), size)

    e.loop(e.builder.udiv(rows.pairs, e.const(LANES)), words)


def _sum_groups(e: Emitter, rows: _Rows, row: Value, sums: Value) -> None:
    vectors = e.builder.udiv(rows.pairs, e.mul(rows.groups, LANES))
    line = e.at(rows.x, e.mul(row, rows.stride), 1)
    ones = e.splat_i32(0x3F803F80)

    def group(number: Value) -> None:
        def add(n: Value, total: Value) -> list[Value]:
            at = e.at(line, e.add(e.mul(number, vectors), n), 4 * LANES)
            return [e.dot_bf16(e.builder.bitcast(e.load(at), e.i32s), ones, total)]

        total = e.reduce(e.loop(vectors, add, [e.splat(0.0)])[0], e.builder.fadd)
        place = e.at(sums, e.add(e.mul(number, rows.count), row), 4)
        e.builder.store(e.builder.extract_element(total, e.builder.trunc(e.const(0), e.i32)), place, align=4)

    e.loop(rows.groups, group)


def _finish(e: Emitter, totals: Value, scale: Value | None, to: tuple[Value, ...], row: Value) -> None:
    """Scales and rounds the totals of a row of a block."""
    block, width, y, residual = to
    for half in (0, 1):
        total = e.load(e.at(totals, e.add(e.mul(row, 32), 16 * half), 4))
        if scale is not None:
            total = e.builder.fmul(total, e.load(e.at(scale, 16 * half, 4)))
        _round(e, total, e.add(e.mul(row, width), e.mul(block, 32), 16 * half), y, residual)


def _round(e: Emitter, total: Value, at: Value, y: Value, residual: Value) -> None:
    adds = e.ult(0, residual)
    added_to = e.load(e.at(e.builder.select(adds, residual, y), at, 2), 2)  # any readable address will do
    e.store(e.builder.select(adds, e.builder.fadd(total, added_to), total), e.at(y, at, 2), 2)


def _each_row(e: Emitter, count: Value, body: Callable[[Value], object]) -> None:
    def run(row: Value) -> None:
        body(row)

    e.loop(count, run)


def _room(e: Emitter, words: Value) -> Value:
    """Allocates 32-bit words on the stack of the thread."""
    room = e.builder.alloca(e.i32, words)
    room.align, room.type = 64, e.ptr
    return room


def _when(e: Emitter, condition: Value, body: Callable[[], object]) -> None:
    inside, after = e.builder.append_basic_block("when"), e.builder.append_basic_block("whenever")
    e.builder.cbranch(condition, inside, after)
    e.builder.position_at_end(inside)
    body()
    e.builder.branch(after)
    e.builder.position_at_end(after)


def _switch(e: Emitter, functions: dict[int, Value], size: Value, args: Sequence[Value]) -> None:
    """Calls the function for tiles of this size."""
    after = e.builder.append_basic_block("tiled")
    choice = e.builder.switch(size, after)
    for count, function in functions.items():
        e.builder.position_at_end(e.builder.append_basic_block(f"rows{count}"))
        choice.add_case(e.const(count), e.builder.block)
        e.builder.call(function, args)
        e.builder.branch(after)
    e.builder.position_at_end(after)
