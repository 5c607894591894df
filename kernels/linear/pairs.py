"""The loop of a product over weights that are stored in pairs of inputs, for any number of bits per weight.

Outputs are taken in blocks of 2L, rows in tiles, inputs in stretches of STRETCH pairs. A stretch is summed in registers
and then added to the totals of its outputs. Stretches are the outer loop and tiles the inner one: the first tile finds
the weights of a stretch in the cache because the tiles of the stretch before asked for them.

The order of the sums of an output is fixed, so neither the other rows nor the threads change a bit of it. How the bytes
of a stretch become numbers is the caller's: see `WeightFormat`.

L = lanes of a vector. A *word* is 32 bits: two bfloat16 of one pair of inputs, the first input in the low half.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

from trimode.kernels.linear.rows import Rows, rows_of, tile_rows
from trimode.kernels.llvm.emitter import Emitter, Value
from trimode.kernels.llvm.ranges import RangeKernel

STRETCH = 128
"""Pairs of inputs summed one after the other. The sums of the stretches are added up in turn, which rounds less: the
error is about that of torch's product in float32, far below the last bit of a result in bfloat16."""
MAX_ROWS = 140
"""Rows of one call. Their totals stand on the stack, and their values in the cache of the second level."""
_LINE = 64
"""Bytes of a cache line."""
_AMONG = 32
"""Added to the number of rows of a tile that is not alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arithmetic:
    """How a pair of inputs is multiplied. Both ways give the same bits."""

    dot: bool
    """True for the CPU's instruction for pairs of bfloat16: x holds a word per row and pair. False for two float32
    multiplications in the same order: x holds the two inputs of a pair one after the other, in float32."""

    @property
    def x_bytes(self) -> int:
        """Bytes of a row's values of a pair."""
        return 4 if self.dot else 8

    def multiply(
        self, e: Emitter, x: Value, x_stride: Value, words: tuple[Value, Value], sums: list[Value]
    ) -> list[Value]:
        """Returns the sums with a pair of inputs added.

        Args:
            e: writes the code.
            x: address of the pair's values.
            x_stride: as in `Stretch`.
            words: the weights of the pair for outputs 0 .. L - 1 of the block, and for L .. 2L - 1.
            sums: two vectors of float32 per row, for the same outputs.
        """
        b, result = e.builder, list(sums)
        if self.dot:
            for row in range(len(sums) // 2):
                value = e.splat(b.load(e.at(x, row, 4), typ=e.i32, align=2))
                for half in (0, 1):
                    result[2 * row + half] = e.dot_bf16(value, words[half], result[2 * row + half])
            return result
        second = [b.bitcast(b.and_(word, e.splat_i32(-65536)), e.f32s) for word in words]
        first = [b.bitcast(b.shl(word, e.splat_i32(16)), e.f32s) for word in words]
        for values, weights in ((e.at(x, x_stride, 4), second), (x, first)):
            for row in range(len(sums) // 2):
                value = e.load_one(e.at(values, row, 4))
                for half in (0, 1):
                    result[2 * row + half] = e.fma(value, weights[half], result[2 * row + half])
        return result


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """A stretch of a block and a tile, where the code of its sums is written: i64 values and addresses."""

    x: Value
    """Values of the tile's rows at the first pair, as `Arithmetic` reads them."""
    x_stride: Value
    """Rows from a pair to the next in x. The tile may have one row less."""
    weight: Value
    """First byte of the whole weight."""
    block: Value
    """Number of the block of 2L outputs."""
    number: Value
    """Number of the stretch in the block."""
    pairs: Value
    """Pairs of inputs of a whole block."""
    count: Value
    """Pairs of this stretch, 1 to STRETCH."""
    ahead: Value
    """First byte that this tile prefetches, in the weights of the following stretch."""
    ahead_step: Value
    """Bytes that it prefetches per pair."""
    alone: bool
    """True if the tile is the only one, and has to prefetch the whole stretch. Others ask for a half at most."""
    extra: tuple[Value, ...]
    """The format's own arguments of the call."""

    def first_pair(self, e: Emitter) -> Value:
        """Number of the stretch's first pair, counted over all blocks."""
        return e.add(e.mul(self.block, self.pairs), e.mul(self.number, STRETCH))

    def values(self, e: Emitter, arithmetic: Arithmetic, pair: Value) -> Value:
        """Address of the values of a pair of the stretch."""
        return e.at(self.x, e.mul(pair, self.x_stride), arithmetic.x_bytes)

    def prefetch(self, e: Emitter, pair: Value, step_bytes: int) -> None:
        """Prefetches what falls to a step that begins at this pair and multiplies so many bytes of weights."""
        place = e.at(self.ahead, e.mul(pair, self.ahead_step), 1)
        for line in range(0, step_bytes if self.alone else -(-step_bytes // 2), _LINE):
            e.prefetch(e.at(place, e.const(line), 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFormat:
    """How weights are stored and become numbers."""

    pair_bytes: int
    """Bytes of a block's pair of inputs; an average, rounded up, will do: it says how far to prefetch."""
    sum_stretch: Callable[[Emitter, Arithmetic, Stretch, int], list[Value]]
    """Writes the sums of a stretch for so many rows. Returns two vectors of float32 per row."""
    finish: Callable[[Emitter, Value, tuple[Value, ...], list[Value]], list[Value]] | None = None
    """`finish(e, block, extra, totals)` returns the two vectors of totals of a row as they are wanted, for example
    scaled. The residual is added afterwards. None leaves them as they are."""
    num_extra: int = 0
    """Number of arguments of a call that belong to the format."""


def bf16_format(lanes: int) -> WeightFormat:
    """Plain bfloat16: `[2, L]` words for each pair of a block."""
    return WeightFormat(pair_bytes=8 * lanes, sum_stretch=_sum_words)


def _sum_words(e: Emitter, arithmetic: Arithmetic, at: Stretch, num_rows: int) -> list[Value]:
    pair_bytes = 8 * e.lanes
    weights = e.at(at.weight, at.first_pair(e), pair_bytes)

    def step(pair: Value, *sums: Value) -> list[Value]:
        at.prefetch(e, pair, pair_bytes)
        here = e.at(weights, pair, pair_bytes)
        low, high = (e.builder.load(e.at(here, half, 4 * e.lanes), typ=e.i32s, align=4) for half in (0, 1))
        return arithmetic.multiply(e, at.values(e, arithmetic, pair), at.x_stride, (low, high), list(sums))

    return e.loop(at.count, step, [e.splat(0.0)] * (2 * num_rows))


def product_kernel(lanes: int, arithmetic: Arithmetic, weights: WeightFormat) -> RangeKernel:
    """Compiles `kernel(blocks, x, stride, rows, pairs, tiles, copies, weight, y, residual, width, *extra)`.

    Work item: 2L outputs of all rows, at most MAX_ROWS. `copies` is the address of memory for a copy of the rows for
    each thread, or 0 if x is the copy of `rows.copy_kernel`, or one row of which the instruction needs none. `residual`
    is 0 if nothing is added. y and residual are bfloat16 `[rows, width]`.
    """

    def emit(e: Emitter, thread: Value, *args: Value) -> Callable[[Value, Value], None]:
        x, stride, num_rows, num_pairs, tiles, copies, weight, y, residual, width, *extra = args
        rows = Rows(x=x, stride=stride, num_rows=num_rows, num_pairs=num_pairs, tiles=tiles, words=arithmetic.dot)
        values = _own_copy(e, rows, copies, thread)
        totals = e.scratch(MAX_ROWS * 2 * lanes)
        block = _Block(
            arithmetic=arithmetic, weights=weights, rows=rows, values=values, weight=weight, y=y, residual=residual,
            width=width, totals=totals, extra=tuple(extra), functions=_tile_functions(e, arithmetic, weights),
        )  # fmt: skip

        def emit_range(first: Value, end: Value) -> None:
            e.loop(e.builder.sub(end, first), lambda number: block.emit(e, e.add(first, number)))

        return emit_range

    return RangeKernel(lanes, 10 + weights.num_extra, emit)


def _own_copy(e: Emitter, rows: Rows, copies: Value, thread: Value) -> Value:
    """Writes the code that copies the rows for a thread, if it shall. Returns the address of the values."""
    before, copied, after = e.builder.block, e.builder.append_basic_block("copy"), e.builder.append_basic_block("ready")
    e.builder.cbranch(e.ult(0, copies), copied, after)
    e.builder.position_at_end(copied)
    own = e.add(copies, e.mul(thread, rows.tiles, rows.tile_numbers(e), 4))
    e.loop(e.mul(rows.tiles, rows.groups(e)), functools.partial(rows.copy, e, own))
    copied = e.builder.block
    e.builder.branch(after)
    e.builder.position_at_end(after)
    values = e.builder.phi(e.i64)
    values.add_incoming(rows.x, before)
    values.add_incoming(own, copied)
    return values


@dataclass(frozen=True, slots=True, kw_only=True)
class _Block:
    """What the code of a block needs."""

    arithmetic: Arithmetic
    weights: WeightFormat
    rows: Rows
    values: Value
    weight: Value
    y: Value
    residual: Value
    width: Value
    totals: Value
    extra: tuple[Value, ...]
    functions: dict[int, Value]

    def emit(self, e: Emitter, block: Value) -> None:
        """Writes the code of 2L outputs of all rows."""
        pairs = self.rows.num_pairs
        zero = e.splat(0.0)
        e.loop(e.mul(self.rows.num_rows, 2), lambda n: e.store(zero, e.at(self.totals, n, 4 * e.lanes)))
        ahead_step = e.ceil_div(e.const(self.weights.pair_bytes), self.rows.tiles)

        def stretch(number: Value) -> None:
            count = e.umin(e.builder.sub(pairs, e.mul(number, STRETCH)), STRETCH)
            e.loop(self.rows.tiles, functools.partial(self._tile, e, block, number, count, ahead_step))

        e.loop(e.ceil_div(pairs, STRETCH), stretch)
        added, plain, done = (e.builder.append_basic_block(name) for name in ("added", "plain", "done"))
        e.builder.cbranch(e.ult(0, self.residual), added, plain)
        for start, adds in ((added, True), (plain, False)):
            e.builder.position_at_end(start)
            e.loop(self.rows.num_rows, functools.partial(self._finish, e, block, adds))
            e.builder.branch(done)
        e.builder.position_at_end(done)

    def _tile(self, e: Emitter, block: Value, number: Value, count: Value, ahead_step: Value, tile: Value) -> None:
        row, num_rows = rows_of(e, tile, self.rows.num_rows, self.rows.tiles)
        x_stride = self.rows.width(e)
        values = e.at(self.values, e.mul(tile, self.rows.tile_numbers(e)), 4)
        values = e.at(values, e.mul(number, STRETCH, x_stride), self.arithmetic.x_bytes)
        pair = e.add(e.mul(block, self.rows.num_pairs), e.mul(number, STRETCH), count)
        ahead = e.at(e.at(self.weight, pair, self.weights.pair_bytes), e.mul(tile, count), ahead_step)
        totals = e.at(self.totals, e.mul(row, 2), 4 * e.lanes)
        args = [values, x_stride, self.weight, block, number, self.rows.num_pairs, count, ahead, ahead_step, totals]
        after = e.builder.append_basic_block("tiled")
        among = e.builder.select(e.ult(1, self.rows.tiles), e.const(_AMONG), e.const(0))
        choice = e.builder.switch(e.add(num_rows, among), after)
        for kind, function in self.functions.items():
            e.builder.position_at_end(e.builder.append_basic_block(f"tile{kind}"))
            choice.add_case(e.const(kind), e.builder.block)
            e.builder.call(function, [*args, *self.extra])
            e.builder.branch(after)
        e.builder.position_at_end(after)

    def _finish(self, e: Emitter, block: Value, adds: bool, row: Value) -> None:
        totals = [e.load(e.at(self.totals, e.add(e.mul(row, 2), half), 4 * e.lanes)) for half in (0, 1)]
        if self.weights.finish is not None:
            totals = self.weights.finish(e, block, self.extra, totals)
        for half, total in enumerate(totals):
            place = e.add(e.mul(row, self.width), e.mul(block, 2 * e.lanes), half * e.lanes)
            if adds:
                total = e.builder.fadd(total, e.load(e.at(self.residual, place, 2), 2))
            e.store(total, e.at(self.y, place, 2), 2)


def _tile_functions(outer: Emitter, arithmetic: Arithmetic, weights: WeightFormat) -> dict[int, Value]:
    """One function per number of rows, and another one for a tile among others, numbered from _AMONG on.

    It adds the sums of a stretch to the totals of a tile.
    """
    kinds = [outer.ptr, outer.i64, outer.i64, *[outer.i64] * 4, outer.ptr, outer.i64, outer.ptr]
    most = tile_rows(outer.lanes)
    functions = {}
    for kind in (*range(1, most + 1), *range(_AMONG + (most + 1) // 2, _AMONG + most + 1)):
        num_rows = kind % _AMONG
        function, e = outer.function(f"tile{kind}", [*kinds, *[outer.i64] * weights.num_extra])
        x, x_stride, weight, block, number, pairs, count, ahead, ahead_step, totals, *extra = function.args
        at = Stretch(
            x=x, x_stride=x_stride, weight=weight, block=block, number=number, pairs=pairs, count=count, ahead=ahead,
            ahead_step=ahead_step, alone=kind < _AMONG, extra=tuple(extra),
        )  # fmt: skip
        for n, value in enumerate(weights.sum_stretch(e, arithmetic, at, num_rows)):
            place = e.at(totals, n, 4 * e.lanes)
            e.store(e.builder.fadd(e.load(place), value), place)
        e.builder.ret_void()
        functions[kind] = function
    return functions
