"""The rows of a product on a CPU, as its loop over pairs of inputs reads them.

Rows are cut into tiles that differ by at most one row. A tile is transposed: what belongs to an input, or to a pair of
inputs, stands together for all rows of the tile.

T = rows, I = inputs, L = lanes of a vector. A *word* is 32 bits: two bfloat16 of one pair of inputs, the first input in
the low half.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from trimode.kernels.llvm import jit
from trimode.kernels.llvm.emitter import Emitter, Value
from trimode.kernels.llvm.jit import Call, ParallelKernel
from trimode.kernels.llvm.tape import Scratch


def refusal(weight_OI: torch.Tensor, dtype: torch.dtype, only: str) -> str | None:
    """Returns None if a kernel for weights of `dtype` takes this weight on this machine, otherwise the reason.

    `only`: what the kernel does with that dtype only, for the message.
    """
    refused = jit.refusal(weight_OI)
    if refused is not None:
        return refused
    if weight_OI.dtype != dtype:
        return f"{only} {dtype} only, got {weight_OI.dtype}"
    num_inputs = weight_OI.shape[1]
    whole = num_inputs > 0 and num_inputs % jit.num_lanes() == 0
    return None if whole else f"{num_inputs} inputs are no multiple of {jit.num_lanes()}"


def tile_rows(lanes: int) -> int:
    """Returns how many rows fit the registers: two vectors of sums each, beside the weights and one row's value."""
    return 14 if lanes == 16 else 6


def rows_of(e: Emitter, tile: Value, num_rows: Value, tiles: Value) -> tuple[Value, Value]:
    """Returns the first row of a tile and its number of rows. Tiles differ by at most one row."""
    small, larger = e.builder.udiv(num_rows, tiles), e.builder.urem(num_rows, tiles)
    return e.add(e.mul(tile, small), e.umin(tile, larger)), e.add(small, e.builder.zext(e.ult(tile, larger), e.i64))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Bfloat16 rows and their transposed copy, all of it i64."""

    x: Value
    """Address of the rows."""
    stride: Value
    """Elements from a row to the next."""
    num_rows: Value
    num_pairs: Value
    tiles: Value
    words: bool
    """True for a word per row and pair; False for a float32 per row and input."""

    def groups(self, e: Emitter) -> Value:
        """Number of groups of L words or inputs that cover a row."""
        numbers = self.num_pairs if self.words else e.mul(self.num_pairs, 2)
        return e.ceil_div(numbers, e.lanes)

    def width(self, e: Emitter) -> Value:
        """Rows of the largest tile."""
        return e.ceil_div(self.num_rows, self.tiles)

    def tile_numbers(self, e: Emitter) -> Value:
        """32-bit numbers from a tile to the next in the copy."""
        return e.mul(self.groups(e), e.lanes, self.width(e))

    def copy(self, e: Emitter, out: Value, item: Value) -> None:
        """Writes the code that copies item 0 .. tiles * groups - 1: L words or inputs of a tile."""
        groups, width = self.groups(e), self.width(e)
        tile, group = e.builder.udiv(item, groups), e.builder.urem(item, groups)
        first = e.mul(group, e.lanes)
        row, count = rows_of(e, tile, self.num_rows, self.tiles)
        last = e.add(row, count, -1)  # stands for the rows that a square has more than the tile
        starts = [e.at(self.x, e.mul(e.umin(e.add(row, n), last), self.stride), 2) for n in range(e.lanes)]
        if self.words:
            left = e.builder.sub(self.num_pairs, first)
            square = [e.load_first(e.at(start, first, 4), left) for start in starts]
        else:
            square = [e.load(e.at(start, first, 2), 2) for start in starts]
        target = e.add(e.mul(tile, self.tile_numbers(e)), e.mul(first, width))
        for n, column in enumerate(e.transpose(square)):
            e.store_first(column, e.at(out, e.add(target, e.mul(width, n)), 4), width)


def num_bytes(num_rows: int, num_pairs: int, tiles: int, lanes: int, *, words: bool) -> int:
    """Returns the size of the copy."""
    groups = -(-(num_pairs if words else 2 * num_pairs) // lanes)
    return 4 * tiles * groups * lanes * -(-num_rows // tiles)


@functools.cache
def copy_kernel(lanes: int, *, words: bool) -> ParallelKernel:
    """`kernel(tiles * groups, x, stride, rows, pairs, tiles, out)` copies rows with all threads."""

    def emit(e: Emitter, *args: Value) -> Callable[[Value], None]:
        *of_rows, out = args
        rows = _rows(of_rows, words=words)
        return lambda item: rows.copy(e, out, item)

    return ParallelKernel(lanes, 6, emit, small=True)


def _rows(args: list[Value], *, words: bool) -> Rows:
    x, stride, num_rows, num_pairs, tiles = args
    return Rows(x=x, stride=stride, num_rows=num_rows, num_pairs=num_pairs, tiles=tiles, words=words)


def run_padded(
    prepare: Callable[[torch.Tensor, torch.Tensor | None, torch.Tensor, Scratch], list[Call]],
    x_TI: torch.Tensor, width: int, num_outputs: int, residual_TO: torch.Tensor | None,
) -> torch.Tensor:  # fmt: skip
    """Runs a product whose kernel writes whole blocks of outputs. Returns `[T, O]`, contiguous.

    Args:
        prepare: takes rows, residual, result and scratch memory; returns the calls. W = outputs with the padding.
        x_TI: rows.
        width: W.
        num_outputs: O.
        residual_TO: what is added, or None.
    """
    if residual_TO is not None:
        residual_TO = F.pad(residual_TO, (0, width - num_outputs)) if width > num_outputs else residual_TO.contiguous()
    x_TI = x_TI if x_TI.stride(1) == 1 else x_TI.contiguous()
    y_TW = x_TI.new_empty((x_TI.shape[0], width))
    scratch = Scratch()
    for call in prepare(x_TI, residual_TO, y_TW, scratch):
        call.run()
    return y_TW if width == num_outputs else y_TW[:, :num_outputs].contiguous()
