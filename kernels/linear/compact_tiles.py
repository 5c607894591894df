"""One tile of a product with a compact weight: some rows by a block of 32 outputs, over one stretch of inputs."""

from __future__ import annotations

from enum import Enum

from trimode.kernels.linear.decode import DECODERS, Coding
from trimode.kernels.llvm.emitter import Emitter, Value
from trimode.kernels.llvm.words import Words

STEP_BYTES = 256
"""Of an unpacked step."""


class Source(Enum):
    """Where a tile takes its weights from."""

    UNPACK = "unpack"
    """From the compact weight."""
    STORE = "store"
    """From the compact weight; it stores them unpacked for other tiles."""
    READ = "read"
    """From what another tile has stored."""


def tile_function(outer: Emitter, num_rows: int, source: Source, coding: Coding) -> Value:
    """Adds the sums of a stretch to the totals of `num_rows` rows.

    `void(values, row_sums, totals, scales, zeros, steps, codes, unpacked, ahead, share, cursor, places, raw, place)`:
    values are the rows' words, `[pair, row]`; row_sums their sums over the stretch; totals `[row, 32]`; `share` the
    bytes a step that this tile asks for from `ahead` on; `place` the number of the first step among those of the whole
    weight. int4: scales, zeros and row_sums. 12 bits: cursor, places and raw, the list of exceptions.
    """
    e, args = _declare(outer, f"{source.value}{num_rows}")
    values, row_sums, totals, scales, zeros, steps, codes, unpacked, ahead, share, cursor, places, raw, place = args
    words = Words(e)
    decoder = DECODERS[coding]
    lines = -(-decoder.step_bytes // (64 if source is Source.UNPACK else 128))
    listed = coding is Coding.BITS12 and source is not Source.READ

    def step(i: Value, *carried: Value) -> list[Value]:
        sums, position = list(carried[: 2 * num_rows]), list(carried[2 * num_rows :])
        for line in range(lines):
            e.prefetch(e.at(ahead, e.add(e.mul(i, share), 64 * line), 1))
        stored = e.at(unpacked, i, STEP_BYTES)
        if source is Source.READ:
            vectors = [words.load(e.at(stored, n, 64)) for n in range(4)]
        elif listed:
            vectors, position = _or_exception(words, (codes, places, raw), i, e.add(place, i), position)
        else:
            vectors = decoder.emit(words, e.at(codes, i, decoder.step_bytes))
        if source is Source.STORE:
            for n, vector in enumerate(vectors):
                e.builder.store(vector, e.at(stored, n, 64), align=64)
        weights = [e.builder.bitcast(vector, e.i32s) for vector in vectors]
        for pair in (0, 1):
            at = e.at(values, e.mul(e.add(e.mul(i, 2), pair), num_rows), 4)
            for row in range(num_rows):
                value = e.builder.bitcast(e.load_one(e.at(at, row, 4)), e.i32s)
                for half in (0, 1):
                    n = 2 * row + half
                    sums[n] = e.dot_bf16(weights[2 * pair + half], value, sums[n])
        return [*sums, *position]

    start = []
    if listed:
        first = e.builder.load(cursor, typ=e.i64, align=8)
        start = [first, e.load_i32(places, first)]
    results = e.loop(steps, step, [e.splat(0.0)] * (2 * num_rows) + start)
    if listed:
        e.builder.store(results[-2], cursor, align=8)
    for row in range(num_rows):
        for half in (0, 1):
            at, total = e.at(totals, 32 * row + 16 * half, 4), results[2 * row + half]
            if coding is Coding.INT4:
                scale, zero = (e.load(e.at(part, 16 * half, 4)) for part in (scales, zeros))
                plain = e.fma(e.builder.fneg(zero), e.load_one(e.at(row_sums, row, 4)), total)
                e.store(e.fma(scale, plain, e.load(at)), at)
            else:
                e.store(e.builder.fadd(e.load(at), total), at)
    e.builder.ret_void()
    return e.builder.function


def _declare(outer: Emitter, name: str) -> tuple[Emitter, list[Value]]:
    ptr, i64 = outer.ptr, outer.i64
    kinds = [ptr, ptr, ptr, ptr, ptr, i64, ptr, ptr, ptr, i64, ptr, i64, i64, i64]
    function, e = outer.function(name, kinds)
    return e, list(function.args)


def _or_exception(
    words: Words, addresses: tuple[Value, Value, Value], i: Value, place: Value, position: list[Value]
) -> tuple[list[Value], list[Value]]:
    """Unpacks step i, or takes its raw weights if it is the next exception. Returns them and the next position."""
    e, (codes, places, raw), (cursor, following) = words.e, addresses, position
    names = ("raw", "packed", "unpacked")
    raw_block, packed_block, after = (e.builder.append_basic_block(name) for name in names)
    e.builder.cbranch(e.builder.icmp_unsigned("==", place, following), raw_block, packed_block)
    e.builder.position_at_end(raw_block)
    kept = [words.load(e.at(e.at(raw, cursor, STEP_BYTES), n, 64)) for n in range(4)]
    next_cursor = e.add(cursor, 1)
    next_following = e.load_i32(places, next_cursor)
    e.builder.branch(after)
    e.builder.position_at_end(packed_block)
    decoder = DECODERS[Coding.BITS12]
    decoded = decoder.emit(words, e.at(codes, i, decoder.step_bytes))
    e.builder.branch(after)
    e.builder.position_at_end(after)
    results = []
    for one, other in zip([*decoded, cursor, following], [*kept, next_cursor, next_following], strict=True):
        phi = e.builder.phi(one.type)
        phi.add_incoming(one, packed_block)
        phi.add_incoming(other, raw_block)
        results.append(phi)
    return results[:4], results[4:]
