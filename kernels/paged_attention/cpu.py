"""Attention over a paged cache on a CPU: pages are read in place, without a gather and without a mask.

Keys are taken in blocks counted from key 0 with a running maximum (online softmax, Milakov and Gimelshein, arXiv
1805.02867). A block that a query does not see changes nothing, to the last bit. So a query's result does not depend on
its batch-mates or on how a prompt is sliced, and is the same decoded alone or verified in a block.

T = queries of all rows, H = query heads, K = KV heads, G = H / K, D = head dim, P = pages, S = tokens per page,
W = work items, L = lanes of a vector.
"""

from __future__ import annotations

import functools
from array import array
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from trimode.kernels.llvm import jit
from trimode.kernels.llvm.emitter import Emitter, Value
from trimode.kernels.llvm.jit import Call, ParallelKernel
from trimode.kernels.paged_attention.ragged import Ragged

_MAX_ROWS = 64
"""Query heads of an item, which share one reading of the keys: their sums stay in the cache."""
_LOWEST = torch.finfo(torch.float32).min
"""The running maximum before the first key. With -inf a block that scores -inf throughout would give NaN."""
_QUAD = 4
"""Query heads multiplied together: each key and value is loaded once for all of them."""
_ROW_ARGUMENTS = 4
"""The first arguments of the kernel, which describe the rows of a step: work items, pages and last keys."""


class _Shape(NamedTuple):
    """The sizes that the code is compiled for."""

    lanes: int
    size: int
    """Bytes of an element of queries, keys, values and results."""
    num_heads: int
    num_kv_heads: int
    head_dim: int
    page_size: int
    scale: float

    @property
    def group(self) -> int:
        return self.num_heads // self.num_kv_heads

    @property
    def block(self) -> int:
        """Keys per block."""
        return 2 * self.lanes

    @property
    def num_rows(self) -> int:
        """Query heads of an item at most, rounded up to whole quads."""
        return -(-_tile(self.group) * self.group // _QUAD) * _QUAD


def supports(q_THD: torch.Tensor, kv_PSKD: torch.Tensor, ragged: Ragged | None) -> str | None:
    """Returns None if `paged_attention` takes these tensors on this machine, otherwise the reason.

    Without `ragged` the answer is that for rows without mask words.
    """
    refused = jit.refusal(kv_PSKD, q_THD)
    if refused is not None:
        return refused
    if not kv_PSKD.is_contiguous():
        return "the cache is not contiguous"
    if kv_PSKD.shape[3] % jit.num_lanes():
        return f"head_dim {kv_PSKD.shape[3]} is no multiple of {jit.num_lanes()}"
    return None if ragged is None else refuses_rows(ragged)


def refuses_rows(ragged: Ragged) -> str | None:
    """Returns None if `paged_attention` takes such rows, otherwise the reason."""
    if ragged.mask_word_T is not None:
        return "mask words"
    return None if ragged.last_key_T.is_cpu else f"rows described on {ragged.last_key_T.device.type}"


def paged_attention(q_THD: torch.Tensor, kv_PSKD: torch.Tensor, ragged: Ragged, scale: float) -> torch.Tensor:
    """Softmax attention of every query over the keys of its row, `[T, H * D]` in the dtype of q."""
    num_tokens, num_heads, head_dim = q_THD.shape
    if q_THD.stride()[1:] != (head_dim, 1):
        # Not `contiguous()`: it lets any stride of a dimension of size 1 pass.
        q_THD = q_THD.clone(memory_format=torch.contiguous_format)
    out = q_THD.new_empty((num_tokens, num_heads * head_dim))
    call = prepare(q_THD, kv_PSKD, scale, out)
    set_rows([call], ragged, num_heads, kv_PSKD.shape[2] // 2)
    call.run()
    return out


def prepare(q_THD: torch.Tensor, kv_PSKD: torch.Tensor, scale: float, out_TA: torch.Tensor) -> Call:
    """Returns the call that writes the result into `out_TA`, which is contiguous. `set_rows` gives it its rows.

    The heads of a query stand one behind the other.
    """
    num_tokens, num_heads, head_dim = q_THD.shape
    page_size, num_kv_heads = kv_PSKD.shape[1], kv_PSKD.shape[2] // 2
    shape = _Shape(jit.num_lanes(), q_THD.element_size(), num_heads, num_kv_heads, head_dim, page_size, scale)
    of_rows = [0] * _ROW_ARGUMENTS
    return _kernel(shape).prepare(
        num_tokens * num_kv_heads, *of_rows, q_THD.data_ptr(), q_THD.stride(0), kv_PSKD.data_ptr(), out_TA.data_ptr()
    )


def set_rows(calls: Sequence[Call], ragged: Ragged, num_heads: int, num_kv_heads: int) -> None:
    """Gives calls their rows: as many queries as the calls were prepared for. They read `ragged` when they run."""
    work_W4 = ragged.derive(_work, _tile(num_heads // num_kv_heads), num_kv_heads)
    pages = ragged.page_table_NP
    of_rows = (work_W4.data_ptr(), pages.data_ptr(), pages.shape[1], ragged.last_key_T.data_ptr())
    num_items, first, end = work_W4.shape[0], ParallelKernel.ARGUMENTS, ParallelKernel.ARGUMENTS + _ROW_ARGUMENTS
    for call in calls:
        call.words[ParallelKernel.ITEMS] = num_items
        call.words[first:end] = of_rows


def _tile(group: int) -> int:
    """Queries of an item at most, for so many query heads of a KV head."""
    return max(1, _MAX_ROWS // group)


def _work(ragged: Ragged, tile: int, num_kv_heads: int) -> torch.Tensor:
    """The work items of a step, int32 `[W, 4]`: row, KV head, first query and number of queries (at most `tile`)."""
    items = array("i")
    first_token = 0
    for number, row in enumerate(ragged.rows):
        end = first_token + len(row.last_keys)
        tiles = [(first, min(tile, end - first)) for first in range(first_token, end, tile)]
        for head in range(num_kv_heads):
            for first, count in tiles:
                items.extend((number, head, first, count))
        first_token = end
    return torch.frombuffer(items, dtype=torch.int32).view(-1, 4) if items else torch.empty((0, 4), dtype=torch.int32)


class _Item:
    """Writes the code of one item: some queries of a row, with all query heads that share a KV head."""

    def __init__(self, e: Emitter, shape: _Shape, *args: Value) -> None:
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
        """Scales a query and clears its sums. Returns the last key that any query sees so far."""
        e, shape = self.e, self.shape
        token, head = self._token_and_head(e.umin(row, last_row))  # padding rows repeat the last one
        source = e.at(self.q, e.add(e.mul(token, self.q_stride), e.mul(head, shape.head_dim)), shape.size)
        for start in range(0, shape.head_dim, e.lanes):
            place = e.add(e.mul(row, shape.head_dim), start)
            query = e.builder.fmul(e.load(e.at(source, start, shape.size), shape.size), e.splat(shape.scale))
            e.store(query, e.at(self.queries, place, 4))
            e.store(e.splat(0.0), e.at(self.sums, place, 4))
        e.store(e.splat(_LOWEST), e.at(self.peaks, e.mul(row, e.lanes), 4))
        e.store(e.splat(0.0), e.at(self.totals, e.mul(row, e.lanes), 4))
        limit = e.load_i32(self.last_key, token)
        e.builder.store(e.builder.trunc(limit, e.i32), e.at(self.limits, row, 4), align=4)
        return [e.builder.select(e.ult(last, limit), limit, last)]

    def _read_block(self, start: Value, last: Value) -> None:
        """Reads a block in float32: keys transposed to `[D, block]`, values `[block, D]`. The last key is repeated."""
        e, shape = self.e, self.shape
        dims = range(0, shape.head_dim, e.lanes)

        def copy(number: Value) -> None:  # whole vectors at a time: the time goes into reading memory
            key = e.umin(e.add(start, number), last)
            at = e.add(e.mul(self.row, self.num_pages), e.builder.udiv(key, e.const(shape.page_size)))
            page = e.load_i32(self.pages, at)
            slot = e.add(e.mul(page, shape.page_size), e.builder.urem(key, e.const(shape.page_size)))
            place = e.mul(e.add(e.mul(slot, 2 * shape.num_kv_heads), self.kv_head), shape.head_dim)
            for target, offset in ((self.plain_keys, 0), (self.values, shape.num_kv_heads * shape.head_dim)):
                for dim in dims:
                    source = e.at(self.cache, e.add(place, offset + dim), shape.size)
                    e.store(e.load(source, shape.size), e.at(target, e.add(e.mul(number, shape.head_dim), dim), 4))

        e.loop(e.const(shape.block), copy)

        def turn(number: Value) -> None:
            dim = e.mul(number, e.lanes)
            for half in range(0, shape.block, e.lanes):
                rows = [
                    e.load(e.at(self.plain_keys, e.add(dim, (half + n) * shape.head_dim), 4)) for n in range(e.lanes)
                ]
                for n, column in enumerate(e.transpose(rows)):
                    e.store(column, e.at(self.keys, e.add(e.mul(e.add(dim, n), shape.block), half), 4))

        e.loop(e.const(shape.head_dim // e.lanes), turn)

    def _attend(self, start: Value, quad: Value) -> None:
        """Adds one block of keys to the sums of one quad."""
        e, shape = self.e, self.shape
        first = e.mul(quad, _QUAD)
        rows = [e.add(first, n) for n in range(_QUAD)]

        def dot(dim: Value, *scores: Value) -> list[Value]:
            keys = [e.load(e.at(self.keys, e.add(e.mul(dim, shape.block), half), 4)) for half in (0, e.lanes)]
            result = []
            for n, row in enumerate(rows):
                query = e.load_one(e.at(self.queries, e.add(e.mul(row, shape.head_dim), dim), 4))
                result += [e.fma(query, key, scores[2 * n + half]) for half, key in enumerate(keys)]
            return result

        scores = e.loop(e.const(shape.head_dim), dot, [e.splat(0.0)] * (2 * _QUAD))
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
        e.store(e.fma(e.load(total_at), decay, e.reduce(e.builder.fadd(*weights), e.builder.fadd)), total_at)
        for half, weight in enumerate(weights):
            e.store(weight, e.at(self.weights, number * self.shape.block + half * e.lanes, 4))
        return decay

    def _finish(self, row: Value) -> None:
        e, shape = self.e, self.shape
        token, head = self._token_and_head(row)
        total = e.load(e.at(self.totals, e.mul(row, e.lanes), 4))
        target = e.mul(e.add(e.mul(token, shape.num_heads), head), shape.head_dim)
        for start in range(0, shape.head_dim, e.lanes):
            result = e.builder.fdiv(e.load(e.at(self.sums, e.add(e.mul(row, shape.head_dim), start), 4)), total)
            e.store(result, e.at(self.out, e.add(target, start), shape.size), shape.size)


@functools.cache
def _kernel(shape: _Shape) -> ParallelKernel:
    def emit(e: Emitter, *args: Value) -> Callable[[Value], None]:
        return _Item(e, shape, *args)

    return ParallelKernel(shape.lanes, 8, emit)
