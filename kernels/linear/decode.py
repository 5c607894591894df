"""Turns one step of a compact weight into bfloat16 in registers; see `blocks`, `packed12` and `integers`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import torch
from trimode.kernels.llvm.emitter import Value
from trimode.kernels.llvm.words import Words


class Coding(StrEnum):
    """How a step of 128 weights is stored."""

    BITS12 = "12 bits"
    INT8 = "int8"
    INT4 = "int4"


@dataclass(frozen=True, slots=True)
class Decoder:
    """How a step is read."""

    step_bytes: int
    emit: Callable[[Words, Value], list[Value]]
    """`emit(words, pointer)`: the 4 vectors of the step at the pointer."""


def _twelve_bits(w: Words, pointer: Value) -> list[Value]:
    """A constant for the high bits of the exponent, and the fourth vector from what the other three carry."""
    three = [w.load(w.e.at(pointer, n, 64)) for n in range(3)]
    plain = [w.either(w.masked(word, 0x87FF), w.splat(0x3800)) for word in three]
    parts = [
        w.masked(w.right(three[0], 4), 0x0780),
        w.masked(w.right(three[1], 8), 0x0078),
        w.masked(w.right(three[2], 11), 0x0007),
        w.masked(w.left(three[2], 1), 0x8000),
    ]
    return [*plain, w.either(*parts, w.splat(0x3800))]


@functools.cache
def _magnitudes() -> tuple[list[int], list[int]]:
    """Low and high bytes of 0 to 127 in bfloat16."""
    words = torch.arange(128).to(torch.bfloat16).view(torch.int16).tolist()
    return [word & 0xFF for word in words], [word >> 8 & 0xFF for word in words]


def _int8(w: Words, pointer: Value) -> list[Value]:
    """Bytes of sign and magnitude: both bytes of the magnitude are looked up, and the sign is put on the high one."""
    low, high = _magnitudes()
    result: list[Value] = []
    for n in (0, 1):
        codes = w.load_bytes(w.e.at(pointer, n, 64))
        sign = w.e.builder.and_(codes, w.splat_bytes(0x80))
        result += w.interleave(w.lookup(low, codes), w.e.builder.or_(w.lookup(high, codes), sign))
    return result


def _int4(w: Words, pointer: Value) -> list[Value]:
    """Codes become 16 + code, whose mantissa begins with the code. The 16 is taken off with the zero of the group."""
    codes = w.load(pointer)
    shifted = [w.left(codes, 3), w.right(codes, 1), w.right(codes, 5), w.right(codes, 9)]
    return [w.either(w.masked(part, 0x0078), w.splat(0x4180)) for part in shifted]


DECODERS = {
    Coding.BITS12: Decoder(192, _twelve_bits),
    Coding.INT8: Decoder(128, _int8),
    Coding.INT4: Decoder(64, _int4),
}
