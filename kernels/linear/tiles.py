"""The part of a product that one GPU program computes, and how the inputs are split.

Both follow from the weight's shape, the number of rows and the chip alone. Those for sm_90 were the fastest of those
that were measured on an H100, those for other chips are counted from bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

STREAM_ROWS = 64
"""Most rows for which the own kernels run where cuBLAS could: at 64 rows both take as long on an H100."""
TALL_ROWS = 16
"""Up to here the narrowest tile runs, which needs a quarter of the matrix instructions of the widest one."""
MIN_SPLIT = 512
"""Fewest inputs of a split."""
SPLIT_MULTIPLE = 256
"""Inputs of a split are a multiple of this, of every tile's inputs and of every group."""


class Kind(StrEnum):
    """What the codes of a weight are."""

    float32 = "float32"
    half = "half"
    """bfloat16 or float16."""
    e4m3 = "e4m3"
    int4 = "int4"


MIN_PROGRAMS = {Kind.float32: 72, Kind.half: 64, Kind.e4m3: 64, Kind.int4: 192}
"""Programs that a product of a few rows should have. On an H100, 64 programs that each have 80 KB of bfloat16 weights
under way read as fast as 128 with half of it, and need no second kernel."""
INT4_PROGRAMS = 400
"""Most programs of a few rows with 4-bit codes on sm_90: unpacking fills two to three programs per multiprocessor."""


@dataclass(frozen=True, slots=True)
class Tile:
    """The part of a product that one program computes, and how."""

    outputs: int
    rows: int
    inputs: int
    """Of one step of the sum; with 4-bit codes the group's."""
    warps: int
    stages: int
    """Steps whose loads are under way at once, plus one."""


def tile(kind: Kind, num_rows: int, capability: int, batch_invariant: bool, group_size: int = 0) -> Tile:
    """Returns the tile for a number of rows. The outputs of a tile for up to STREAM_ROWS rows do not depend on them."""
    if kind is Kind.float32:
        return Tile(64, 16, 32, 4, 4) if num_rows <= TALL_ROWS else Tile(64, 64, 16, 4, 4)
    if 90 <= capability < 100:
        return _hopper_tile(kind, num_rows, batch_invariant, group_size)
    newest = 100 <= capability < 120  # tcgen05, whose instruction has the width of the tile
    narrow = num_rows <= TALL_ROWS and not (newest and batch_invariant)
    # tcgen05 multiplies 64 or 128 outputs at a time: here always 128, so few and many rows take the same instruction.
    outputs = 128 if newest else 64
    if kind is Kind.int4:
        if num_rows > STREAM_ROWS:
            return Tile(128, 64, group_size, 8, 3)
        return Tile(outputs, 16 if narrow else 64, group_size, outputs // 16, 4)
    per_byte = 1 if kind is Kind.e4m3 else 2
    # e4m3 codes that the matrix units do not take are widened in registers, of which there are enough for short steps.
    widened = kind is Kind.e4m3 and not (89 <= capability <= 120)
    if num_rows > STREAM_ROWS:
        step = 64 if widened else 128 // per_byte
        return Tile(256 if newest else 128, 64, step, 8, 4 if newest and kind is Kind.half else 3)
    if narrow:
        return Tile(outputs, 16, 16384 // outputs // per_byte, 4, 4 if newest else 3)
    return Tile(outputs, 64, 64 if widened else 128 // per_byte, outputs // 16, 4)


def _hopper_tile(kind: Kind, num_rows: int, batch_invariant: bool, group_size: int) -> Tile:
    """The tile on sm_90, whose matrix instruction (wgmma) has the width of the tile."""
    width = 64 if batch_invariant or num_rows > 32 else 32 if num_rows > TALL_ROWS else 16
    if kind is Kind.int4:
        return Tile(128, width, group_size, 4, 4 if width == 16 else 3)
    if num_rows > STREAM_ROWS:
        return Tile(256, 64, 64, 8, 4) if kind is Kind.half else Tile(256, 64, 128, 8, 3)
    return Tile(64, width, 128, 4, 8 if kind is Kind.e4m3 and width < 64 else 6)


def split_inputs(kind: Kind, num_outputs: int, num_inputs: int, capability: int, batch_invariant: bool) -> int:
    """Returns how many inputs of a weight are summed on their own, so that a few rows have programs enough."""
    programs = max(1, -(-num_outputs // tile(kind, 1, capability, batch_invariant).outputs))
    most = max(1, num_inputs // MIN_SPLIT)
    if kind is Kind.int4 and 90 <= capability < 100:
        splits = 1
        while 2 * splits <= most and 2 * splits * programs <= INT4_PROGRAMS:
            splits *= 2
    else:
        splits = min(-(-MIN_PROGRAMS[kind] // programs), most)
    split = -(-num_inputs // splits // SPLIT_MULTIPLE) * SPLIT_MULTIPLE
    return min(split, num_inputs)
