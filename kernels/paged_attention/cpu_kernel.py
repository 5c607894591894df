"""The code of one work item of attention on a CPU: some queries of a row, with all query heads that share a KV head.

Scores of bfloat16 are sums of pairs of dims: the second dim's product is added first, then the first one's, each
rounded. CPUs with AVX512-BF16 do that in one instruction, others in two, so the results have the same bits. Subnormal
numbers may count as 0, which changes no weight: scores that differ by less than 1e-35 have the same exponential.

H = query heads, K = KV heads, G = H / K, D = head dim, S = tokens per page, L = lanes of a vector.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from trimode.kernels.llvm.emitter import Emitter, Value
from trimode.kernels.llvm.jit import ParallelKernel

_MAX_ROWS = 64
"""Query heads of an item, which share one reading of the keys: their sums stay in the cache."""
_LOWEST = torch.finfo(torch.float32).min
"""The running maximum before the first key. With -inf a block that scores -inf throughout would give NaN."""
_QUAD = 4
"""Query heads multiplied together: each key and value is loaded once for all of them."""
ROW_ARGUMENTS = 4
"""The first arguments of the kernel, which describe the rows of a step: work items, pages, pages of a row in their
table, and last keys. Then come the queries, elements from a query to the next, the cache and the result."""


class Shape(NamedTuple):
    """The sizes that the code is compiled for."""

    lanes: int
    size: int
    """Bytes of an element of queries, keys, values and results."""
    num_heads: int
    num_kv_heads: int
    head_dim: int
    page_size: int
    scale: float
    dot: bool
    """True for scores by the CPU's instruction for pairs of bfloat16. Others give the same bits."""

    @property
    def width(self) -> int:
        """Numbers of 32 bits of a query or key: float32, or pairs of bfloat16."""
        return self.head_dim // 2 if self.dot else self.head_dim

    @property
    def group(self) -> int:
        """Query heads of a KV head."""
        return self.num_heads // self.num_kv_heads

    @property
    def block(self) -> int:
        """Keys per block."""
        return 2 * self.lanes

    @property
    def num_rows(self) -> int:
        """Query heads of an item at most, rounded up to whole quads."""
        return -(-tile(self.group) * self.group // _QUAD) * _QUAD


def tile(group: int) -> int:
    """Queries of an item at most, for so many query heads of a KV head."""
    return max(1, _MAX_ROWS // group)


class _Item:
    """Writes the code of one item: some queries of a row, with all query heads that share a KV head."""

    def __init__(self, e: Emitter, shape: Shape, *args: Value) -> None:
        self.e, self.shape = e, shape
        self.work, self.pages, self.num_pages, self.last_key, self.q, self.q_stride, self.cache, self.out = args
        rows, dim = shape.num_rows, shape.head_dim
        self.queries, self.sums = e.scratch(rows * dim), e.scratch(rows * dim)
        self.peaks, self.totals = e.scratch(rows * e.lanes), e.scratch(rows * e.lanes)
        self.limits = e.scratch(rows)  # of i32
        self.plain_keys, self.keys, self.values = (e.scratch(shape.block * dim) for _ in range(3))
        self.weights = e.scratch(_QUAD * shape.block)

    def __call__(self, item: Value) -> None:
        e, shape = self.e, self.shape
        self.row, self.kv_head, self.first_token, num_tokens = (
            e.load_i32(self.work, e.add(e.mul(item, 4), place)) for place in range(4)
        )
        num_rows = e.mul(num_tokens, shape.group)
        quads = e.ceil_div(num_rows, _QUAD)
        (last,) = e.loop(e.mul(quads, _QUAD), functools.partial(self._start, e.add(num_rows, -1)), [e.const(0)])

        def block(number: Value) -> None:
            start = e.mul(number, shape.block)
            self._read_block(start, last)
            e.loop(quads, functools.partial(self._attend, start))

        e.loop(e.add(e.builder.udiv(last, e.const(shape.block)), 1), block)
        e.loop(num_rows, self._finish)

    def _token_and_head(self, row: Value) -> tuple[Value, Value]:
        e, group = self.e, self.shape.group
        head = e.add(e.mul(self.kv_head, group), e.builder.urem(row, e.const(group)))
        return e.add(self.first_token, e.builder.udiv(row, e.const(group))), head

    def _start(self, last_row: Value, row: Value, last: Value) -> list[Value]:
        """Copies a query and clears its sums. Returns the last key that any query sees so far."""
        e, shape = self.e, self.shape
        token, head = self._token_and_head(e.umin(row, last_row))  # padding rows repeat the last one
        source = e.at(self.q, e.add(e.mul(token, self.q_stride), e.mul(head, shape.head_dim)), shape.size)
        self._copy(source, self.queries, row)
        for start in range(0, shape.head_dim, e.lanes):
            e.store(e.splat(0.0), e.at(self.sums, e.add(e.mul(row, shape.head_dim), start), 4))
        e.store(e.splat(_LOWEST), e.at(self.peaks, e.mul(row, e.lanes), 4))
        e.store(e.splat(0.0), e.at(self.totals, e.mul(row, e.lanes), 4))
        limit = e.load_i32(self.last_key, token)
        e.builder.store(e.builder.trunc(limit, e.i32), e.at(self.limits, row, 4), align=4)
        return [e.builder.select(e.ult(last, limit), limit, last)]

    def _copy(self, source: Value, target: Value, row: Value) -> None:
        """Copies a query or key to row `row` of `[rows, D]`: as it is for the dot product of pairs, else in float32."""
        e, shape = self.e, self.shape
        size = 4 if shape.dot else shape.size
        for start in range(0, shape.width, e.lanes):
            value = e.load(e.at(source, start, size), size)
            e.store(value, e.at(target, e.add(e.mul(row, shape.width), start), 4))

    def _read_block(self, start: Value, last: Value) -> None:
        """Reads a block: keys transposed to `[D, block]` (of pairs: `[D / 2, block]`), values `[block, D]` in float32.

        The last key is repeated.
        """
        e, shape = self.e, self.shape
        dims = range(0, shape.head_dim, e.lanes)

        def copy(number: Value) -> None:  # whole vectors at a time: the time goes into reading memory
            key = e.umin(e.add(start, number), last)
            at = e.add(e.mul(self.row, self.num_pages), e.builder.udiv(key, e.const(shape.page_size)))
            page = e.load_i32(self.pages, at)
            slot = e.add(e.mul(page, shape.page_size), e.builder.urem(key, e.const(shape.page_size)))
            place = e.mul(e.add(e.mul(slot, 2 * shape.num_kv_heads), self.kv_head), shape.head_dim)
            self._copy(e.at(self.cache, place, shape.size), self.plain_keys, number)
            for dim in dims:
                source = e.at(self.cache, e.add(place, shape.num_kv_heads * shape.head_dim + dim), shape.size)
                e.store(e.load(source, shape.size), e.at(self.values, e.add(e.mul(number, shape.head_dim), dim), 4))

        e.loop(e.const(shape.block), copy)

        def turn(number: Value) -> None:
            dim = e.mul(number, e.lanes)
            for half in range(0, shape.block, e.lanes):
                rows = [e.load(e.at(self.plain_keys, e.add(dim, (half + n) * shape.width), 4)) for n in range(e.lanes)]
                for n, column in enumerate(e.transpose(rows)):
                    e.store(column, e.at(self.keys, e.add(e.mul(e.add(dim, n), shape.block), half), 4))

        e.loop(e.const(shape.width // e.lanes), turn)

    def _attend(self, start: Value, quad: Value) -> None:
        """Adds one block of keys to the sums of one quad."""
        e, shape = self.e, self.shape
        first = e.mul(quad, _QUAD)
        rows = [e.add(first, n) for n in range(_QUAD)]

        scores = self._scores(rows)
        decays = [self._weigh(start, row, n, scores[2 * n : 2 * n + 2]) for n, row in enumerate(rows)]
        at_once = e.lanes * (4 if e.lanes == 16 else 2)  # sums that fit the registers
        for dim in range(0, shape.head_dim, at_once):
            dims = range(dim, min(dim + at_once, shape.head_dim), e.lanes)
            places = [e.at(self.sums, e.add(e.mul(row, shape.head_dim), d), 4) for row in rows for d in dims]

            def weighted(key: Value, *sums: Value, dims: range = dims) -> list[Value]:
                values = [e.load(e.at(self.values, e.add(e.mul(key, shape.head_dim), d), 4)) for d in dims]
                result = []
                for n in range(_QUAD):
                    weight = e.load_one(e.at(self.weights, e.add(key, n * shape.block), 4))
                    own = sums[n * len(dims) : (n + 1) * len(dims)]
                    result += [e.fma(weight, value, total) for value, total in zip(values, own, strict=True)]
                return result

            # A block is summed separately and then added: over a long context a single chain of sums would lose digits.
            sums = e.loop(e.const(shape.block), weighted, [e.splat(0.0)] * len(places))
            for number, (own, place) in enumerate(zip(sums, places, strict=True)):
                e.store(e.fma(e.load(place), decays[number // len(dims)], own), place)

    def _scores(self, rows: Sequence[Value]) -> list[Value]:
        """Returns the scores of a quad with a block, two vectors per row.

        Even and odd pairs of dims have sums of their own, so that enough additions are under way.
        """
        e, shape = self.e, self.shape
        count, zeros = e.const(shape.head_dim // 4), [e.splat(0.0)] * (2 * _QUAD)

        def add(number: Value, *sums: Value, odds: tuple[int, ...]) -> list[Value]:
            parts = [sums[n : n + len(zeros)] for n in range(0, len(sums), len(zeros))]
            pairs = [e.add(e.mul(number, 2), odd) for odd in odds]
            return [
                total for pair, part in zip(pairs, parts, strict=True) for total in self._add_pair(rows, pair, part)
            ]

        if shape.dot:
            sums = e.loop(count, functools.partial(add, odds=(0, 1)), zeros * 2)
        else:  # one after the other: vectors of 8 lanes have no registers for both
            sums = [total for odd in (0, 1) for total in e.loop(count, functools.partial(add, odds=(odd,)), zeros)]
        halves = zip(sums[: len(zeros)], sums[len(zeros) :], strict=True)
        return [e.builder.fmul(e.builder.fadd(even, odd), e.splat(shape.scale)) for even, odd in halves]

    def _add_pair(self, rows: Sequence[Value], pair: Value, sums: Sequence[Value]) -> list[Value]:
        """Returns the sums of a quad with a pair of dims added, the second one first, as the instruction does it."""
        e, shape, result = self.e, self.shape, list(sums)
        for place in [pair] if shape.dot else [e.add(e.mul(pair, 2), 1), e.mul(pair, 2)]:
            keys = [e.load(e.at(self.keys, e.add(e.mul(place, shape.block), half), 4)) for half in (0, e.lanes)]
            for n, row in enumerate(rows):
                query = e.load_one(e.at(self.queries, e.add(e.mul(row, shape.width), place), 4))
                for total, key in enumerate(keys, start=2 * n):
                    multiply = e.dot_bf16 if shape.dot else e.fma
                    result[total] = multiply(query, key, result[total])
        return result

    def _weigh(self, start: Value, row: Value, number: int, scores: list[Value]) -> Value:
        """Turns a row's scores into weights under its new maximum. Returns the factor for the earlier sums."""
        e = self.e
        limit = e.splat(e.builder.load(e.at(self.limits, row, 4), typ=e.i32))
        seen = []
        for half, score in enumerate(scores):
            keys = e.builder.add(e.splat(e.builder.trunc(e.add(start, half * e.lanes), e.i32)), e.iota())
            seen.append(e.builder.select(e.builder.icmp_signed("<=", keys, limit), score, e.splat(float("-inf"))))
        peak_at, total_at = (e.at(array, e.mul(row, e.lanes), 4) for array in (self.peaks, self.totals))
        before = e.load(peak_at)
        peak = e.fmax(before, e.reduce(e.fmax(*seen), e.fmax))
        weights = [e.exp(e.builder.fsub(score, peak)) for score in seen]
        decay = e.exp(e.builder.fsub(before, peak))
        e.store(peak, peak_at)
        e.store(e.fma(e.load(total_at), decay, e.builder.fadd(*weights)), total_at)
        for half, weight in enumerate(weights):
            e.store(weight, e.at(self.weights, number * self.shape.block + half * e.lanes, 4))
        return decay

    def _finish(self, row: Value) -> None:
        e, shape = self.e, self.shape
        token, head = self._token_and_head(row)
        total = e.reduce(e.load(e.at(self.totals, e.mul(row, e.lanes), 4)), e.builder.fadd)
        target = e.mul(e.add(e.mul(token, shape.num_heads), head), shape.head_dim)
        for start in range(0, shape.head_dim, e.lanes):
            result = e.builder.fdiv(e.load(e.at(self.sums, e.add(e.mul(row, shape.head_dim), start), 4)), total)
            e.store(result, e.at(self.out, e.add(target, start), shape.size), shape.size)


@functools.cache
def kernel(shape: Shape) -> ParallelKernel:
    """Returns the kernel whose items are the work items of a step."""

    def emit(e: Emitter, *args: Value) -> Callable[[Value], None]:
        return _Item(e, shape, *args)

    return ParallelKernel(shape.lanes, 8, emit)
