"""Vectors of 512 bits as 32 words of 16 bits or as 64 bytes."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from trimode.kernels.llvm.emitter import Emitter, Value

try:
    from llvmlite import ir
except ImportError:  # then no CPU kernel is offered, see `trimode.kernels.llvm.jit.missing`
    ir = None

LANES = 16
"""32-bit lanes of the vectors. All functions here need an emitter with as many."""


class Words:
    """Writes the operations on 16-bit words and bytes."""

    def __init__(self, e: Emitter) -> None:
        """The operations go where `e` writes."""
        self.e = e
        self.word, self.byte = ir.IntType(16), ir.IntType(8)
        self.words, self.bytes = ir.VectorType(self.word, 2 * LANES), ir.VectorType(self.byte, 4 * LANES)

    def load(self, pointer: Value) -> Value:
        """Loads 32 words."""
        return self.e.builder.load(pointer, typ=self.words, align=4)

    def load_bytes(self, pointer: Value) -> Value:
        """Loads 64 bytes."""
        return self.e.builder.load(pointer, typ=self.bytes, align=4)

    def splat(self, value: int) -> Value:
        """A constant in every word."""
        return ir.Constant(self.words, [value & 0xFFFF] * 2 * LANES)

    def splat_bytes(self, value: int) -> Value:
        """A constant in every byte."""
        return ir.Constant(self.bytes, [value] * 4 * LANES)

    def left(self, value: Value, by: int) -> Value:
        """Shifts words to the left."""
        return self.e.builder.shl(value, self.splat(by))

    def right(self, value: Value, by: int) -> Value:
        """Shifts words to the right and fills with zeros."""
        return self.e.builder.lshr(value, self.splat(by)) if by else value

    def masked(self, value: Value, mask: int) -> Value:
        """Keeps the bits of a mask."""
        return self.e.builder.and_(value, self.splat(mask))

    def either(self, *values: Value) -> Value:
        """Joins bits."""
        return functools.reduce(self.e.builder.or_, values)

    def lookup(self, table: Sequence[int], indices: Value) -> Value:
        """Replaces each byte by the entry of a table of 128 bytes that its lowest 7 bits name."""
        low, high = (ir.Constant(self.bytes, list(part)) for part in (table[:64], table[64:]))
        return self.e.intrinsic("llvm.x86.avx512.vpermi2var.qi.512", self.bytes, low, indices, high)

    def interleave(self, low: Value, high: Value) -> tuple[Value, Value]:
        """Makes words of low and high bytes: the first and the last 8 bytes of each quarter."""
        kind = ir.VectorType(ir.IntType(32), 4 * LANES)
        result = []
        for half in (0, 8):
            places = [16 * q + half + n + 64 * k for q in range(4) for n in range(8) for k in (0, 1)]
            mixed = self.e.builder.shuffle_vector(low, high, ir.Constant(kind, places))
            result.append(self.e.builder.bitcast(mixed, self.words))
        return result[0], result[1]
