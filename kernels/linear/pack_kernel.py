"""The kernel that stores bfloat16 weights in 12 bits, block by block, with one pass over them; see `packed12`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

from trimode.kernels.linear.blocks import OUTPUTS
from trimode.kernels.llvm.emitter import Emitter, Value
from trimode.kernels.llvm.ranges import RangeKernel
from trimode.kernels.llvm.words import LANES, Words

TILE_INPUTS = 2 * LANES
"""Inputs that are transposed at a time."""
STEP_BYTES = 192
"""Of a packed step."""
SIZES = 2
"""Vectors that are kept of a block: per lane the largest size, and the least one less one."""
_EXPONENT, _SIZE, _KEPT, _FOUR, _NO_CODE = 0x7F80, 0x7FFF, 0x87FF, 0x7800, 0xF87F


@functools.cache
def kernel() -> RangeKernel:
    """Returns the kernel. Work item: a block of 32 outputs.

    Arguments: weights, bytes between their rows, outputs, tiles of a row, first exponent and what is added to the
    exponents (both in their place in a word), packed words, a byte per step that is 1 for exceptions, sizes.
    """
    return RangeKernel(LANES, 9, _emit)


def _emit(e: Emitter, _thread: Value, *args: Value) -> Callable[[Value, Value], None]:
    weights, row_bytes, outputs, tiles, first, moved, packed, outside, sizes = args
    w, b = Words(e), e.builder
    first_words, moved_words = (_every_word(w, value) for value in (first, moved))

    def emit_tile(block: Value, rows: Sequence[Value], tile: Value, most: Value, least: Value) -> tuple[Value, Value]:
        addresses = [e.at(row, tile, 2 * TILE_INPUTS) for row in rows]
        lines = [b.load(address, typ=e.i32s, align=2) for address in addresses]
        halves = [e.transpose(lines[:LANES]), e.transpose(lines[LANES:])]
        for step in range(TILE_INPUTS // 4):
            plain = [b.bitcast(halves[half][2 * step + pair], w.words) for pair in (0, 1) for half in (0, 1)]
            for vector in plain:
                size = w.masked(vector, _SIZE)
                less = w.masked(b.sub(size, w.splat(1)), _SIZE)  # zero becomes the largest
                most = b.select(b.icmp_unsigned(">", size, most), size, most)
                least = b.select(b.icmp_unsigned("<", less, least), less, least)
            place = e.add(e.mul(e.add(e.mul(block, tiles), tile), TILE_INPUTS // 4), step)
            _store_step(w, plain, (first_words, moved_words), e.at(packed, place, STEP_BYTES), e.at(outside, place, 1))
        return most, least

    def emit_block(block: Value) -> None:
        last = e.add(outputs, -1)
        numbers = (e.umin(e.add(e.mul(block, OUTPUTS), n), last) for n in range(OUTPUTS))
        rows = [e.add(weights, e.mul(number, row_bytes)) for number in numbers]
        start = [w.splat(0), w.splat(_SIZE)]
        found = e.loop(tiles, lambda tile, most, least: emit_tile(block, rows, tile, most, least), start)
        for n, vector in enumerate(found):
            b.store(vector, e.at(sizes, e.add(e.mul(block, SIZES), n), 2 * OUTPUTS), align=2)

    return lambda start, end: _each(e, start, end, emit_block)


def _each(e: Emitter, first: Value, end: Value, body: Callable[[Value], None]) -> None:
    e.loop(e.builder.sub(end, first), lambda n: body(e.add(first, n)))


def _every_word(w: Words, value: Value) -> Value:
    """Returns the low 16 bits of an i64 in every word."""
    b = w.e.builder
    low = b.and_(b.trunc(value, w.e.i32), w.e.i32(0xFFFF))
    pair = b.or_(low, b.shl(low, w.e.i32(16)))
    return b.bitcast(w.e.splat(pair), w.words)


def _store_step(w: Words, plain: Sequence[Value], exponents: tuple[Value, Value], at: Value, flag: Value) -> None:
    """Stores three vectors for the four of a step, and whether one of its weights has no code."""
    b, (first, moved) = w.e.builder, exponents
    beyond = w.either(*(w.masked(b.sub(w.masked(v, _EXPONENT), first), _NO_CODE) for v in plain))
    lanes = b.icmp_unsigned("!=", beyond, w.splat(0))
    some = b.icmp_unsigned("!=", b.bitcast(lanes, w.e.i32), w.e.i32(0))
    b.store(b.zext(some, w.byte), flag, align=1)
    v0, v1, v2, v3 = (b.add(v, moved) for v in plain)
    low = w.left(w.masked(v3, 0x0007), 11)
    parts = (
        w.masked(w.left(v3, 4), _FOUR),
        w.masked(w.left(v3, 8), _FOUR),
        w.either(w.masked(w.right(v3, 1), 0x4000), low),
    )
    for n, (vector, part) in enumerate(zip((v0, v1, v2), parts, strict=True)):
        b.store(w.either(w.masked(vector, _KEPT), part), w.e.at(at, n, 64), align=2)
