"""Which tile, which splits and how many programs the GPU kernel of attention takes, from host integers only.

T = tokens (queries) of all rows, H = query heads, K = KV heads, G = H / K, D = head dim.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from trimode.kernels.paged_attention.ragged import MAX_MASKED_QUERIES, Ragged

MAX_HEAD_DIM = 128
MAX_GROUP = 16
"""Most query heads of a KV head."""
UNBOUNDED = 1 << 30
WALKERS_PER_SM = 2
"""Tiles per multiprocessor from which on one program walks all splits of its tile."""
MAX_PROGRAMS = 16384
"""Most programs of a call that spreads. In a captured graph most of them may find no split to do."""
WORKSPACE_BYTES = 256 << 20
"""Most bytes of partial results. A call that would need more walks, with the same bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """What one program computes at a time."""

    rows: int
    """Rows of the score matrix: queries times G, padded."""
    queries: int
    """Queries of a tile."""
    keys: int
    """Keys that are loaded at a time."""
    num_warps: int
    num_stages: int
    max_registers: int | None = None
    """Set where the assembler would rather spill registers than run fewer programs at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Class:
    """Rows that are computed alike. A row's class depends on its own number of queries and on G alone."""

    name: str
    first_split: int
    """Keys of each of the first splits; 0 = never split."""
    per_octave: int
    """Splits of the first length, and then splits per doubling of the context."""

    @property
    def one_tile(self) -> bool:
        """True if every row of the class fits one tile."""
        return self.name == "decode"

    @property
    def may_have_words(self) -> bool:
        """True if rows of the class can have mask words."""
        return self.name != "prefill"

    def bounds(self, group: int) -> tuple[int, int]:
        """Returns the fewest and the most queries of a row of this class."""
        decode = 16 // group
        if self.name == "decode":
            return 1, decode
        return (decode + 1, MAX_MASKED_QUERIES) if self.name == "block" else (MAX_MASKED_QUERIES + 1, UNBOUNDED)

    def occurs(self, group: int, min_queries: int, max_queries: int) -> bool:
        """Returns True if rows of `min_queries` to `max_queries` queries can be of this class."""
        fewest, most = self.bounds(group)
        return max(1, min_queries) <= most and max_queries >= fewest

    def num_tiles(self, tile: Tile, ragged: Ragged) -> int:
        """Returns a bound of the number of tiles: each row begins one, and each full one takes its queries."""
        num_rows = int(ragged.num_keys_N.shape[0])
        return num_rows if self.one_tile else ragged.num_tokens // tile.queries + num_rows

    def num_slots(self, group: int, ragged: Ragged) -> int:
        """Returns how many queries need room for partial results: all tokens, or so many of each row, if fewer."""
        per_row = min(self.bounds(group)[1], ragged.max_queries)
        return min(ragged.num_tokens, int(ragged.num_keys_N.shape[0]) * per_row)

    def num_splits(self, num_keys: int) -> int:
        """Returns the number of splits of so many keys."""
        if not self.first_split:
            return 1
        last = max(0, num_keys - 1) // self.first_split
        octave = max(0, (last // self.per_octave).bit_length() - 1)
        return octave * self.per_octave + (last >> octave) + 1

    def spreads(self, programs: int, max_keys: int, part_size: int, num_sms: int) -> bool:
        """Returns True if the splits of a tile go to several programs, False if one program walks all of them.

        Args:
            programs: tiles times KV heads.
            max_keys: the most keys of a row.
            part_size: float32 numbers of the partial results of one split of all rows.
            num_sms: multiprocessors of the GPU.
        """
        num_splits = self.num_splits(max_keys)
        fills = programs >= WALKERS_PER_SM * num_sms or programs * num_splits > MAX_PROGRAMS
        return num_splits > 1 and not fills and 4 * part_size * num_splits <= WORKSPACE_BYTES


DECODE = Class(name="decode", first_split=128, per_octave=16)
BLOCK = Class(name="block", first_split=256, per_octave=8)
PREFILL = Class(name="prefill", first_split=0, per_octave=1)
CLASSES = (DECODE, BLOCK, PREFILL)
WARPGROUP_CHIPS = (9, 10)
"""Generations whose matrix units take 64 rows at a time from four warps, and that hold tiles of 64 keys in registers
without spilling."""


def tile_of(kind: Class, group: int, head_dim: int, dtype: torch.dtype, capability: int) -> Tile:
    """Returns the tile of a class of rows on a chip."""
    if dtype == torch.float32:
        return Tile(rows=16, queries=16 // group, keys=32, num_warps=8, num_stages=1, max_registers=224)
    hopper = capability // 10 == 9
    if kind.name == "decode":
        keys = 128 if hopper and head_dim > 64 else 64 if capability != 80 else 32
        return Tile(rows=16, queries=16 // group, keys=keys, num_warps=4, num_stages=2)
    if capability // 10 in WARPGROUP_CHIPS:
        if kind.name == "block":
            return Tile(rows=64, queries=64 // group, keys=64, num_warps=4 if hopper else 8, num_stages=2)
        return Tile(rows=128, queries=128 // group, keys=128 if hopper else 64, num_warps=8, num_stages=2)
    if kind.name == "block":
        return Tile(rows=64, queries=64 // group, keys=32, num_warps=8, num_stages=2, max_registers=255)
    return Tile(rows=128, queries=128 // group, keys=32, num_warps=8, num_stages=2, max_registers=255)
