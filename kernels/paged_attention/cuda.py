"""Attention over a paged cache on a GPU: tiles of queries times query heads, and the keys in splits of fixed bounds.

A row's class follows from its own number of queries alone, and the class decides the tile and where the splits begin.
So a row's sums do not depend on the other rows. A split has a partial result: numerators, running maximum and sum of
the softmax (arXiv 1805.02867). They are merged in the order of the splits (Flash-Decoding, Dao et al., 2023):

- walk: one program takes all splits of a tile and merges in registers. It needs enough tiles to fill the GPU.
- spread: each split of a tile has its own program, partial results go through memory, a second kernel merges them.

Both give the same bits: the operations and their order are the same, the maximum is rounded up to an integer so that
every rescaling is by a power of two, and `fma` is written out where a compiler may or may not fuse a product and a sum.

T = tokens (queries), N = rows, H = query heads, K = KV heads, G = H / K, D = head dim, P = pages, S = tokens per page.
"""

from __future__ import annotations

import torch
from trimode.kernels.cuda import runtime
from trimode.kernels.cuda.runtime import jit, tl
from trimode.kernels.paged_attention.plan import CLASSES, MAX_GROUP, MAX_HEAD_DIM, Class, Tile, tile_of
from trimode.kernels.paged_attention.ragged import Ragged

LOG2_E = 1.4426950408889634
PER_STEP = [
    "page_table_at", "query_start_at", "num_keys_at", "last_key_at", "mask_word_at", "num_rows", "table_stride",
    "num_splits", "per_row",
]  # fmt: skip
"""Arguments that change from step to step: neither their value nor their alignment may compile a kernel again."""


def supports(q_THD: torch.Tensor, kv_PSKD: torch.Tensor, ragged: Ragged | None) -> str | None:
    """Returns None if `paged_attention` takes these tensors here, otherwise the reason."""
    described = () if ragged is None else (ragged.page_table_NP, ragged.query_start_N1, ragged.last_key_T)
    if refused := runtime.refusal(q_THD, kv_PSKD, *described):
        return refused
    if q_THD.dtype not in runtime.DTYPES:
        return f"no GPU kernel for {q_THD.dtype}"
    head_dim, group = q_THD.shape[2], 2 * q_THD.shape[1] // kv_PSKD.shape[2]
    if head_dim > MAX_HEAD_DIM or head_dim % 16:
        return f"head_dim {head_dim} is no multiple of 16 up to {MAX_HEAD_DIM}"
    if group > MAX_GROUP:
        return f"{group} query heads per KV head, at most {MAX_GROUP}"
    if q_THD.stride(2) != 1 or kv_PSKD.stride(3) != 1:
        return "head_dim is not contiguous"
    return None if kv_PSKD.stride(0) == kv_PSKD.shape[1] * kv_PSKD.stride(1) else "pages are not adjacent"


def paged_attention(q_THD: torch.Tensor, kv_PSKD: torch.Tensor, ragged: Ragged, scale: float) -> torch.Tensor:
    """Softmax attention of every query over the keys of its row, `[T, H * D]` in the dtype of q.

    A query that sees no key gets zeros. Results of tokens that belong to no row are unspecified.
    """
    num_tokens, num_heads, head_dim = q_THD.shape
    out_TJ = q_THD.new_empty((num_tokens, num_heads * head_dim))
    chip, num_sms = runtime.capability(q_THD.device), runtime.num_sms(q_THD.device)
    group = 2 * num_heads // kv_PSKD.shape[2]
    for kind in CLASSES:
        if kind.occurs(group, ragged.min_queries, ragged.max_queries):
            tile = tile_of(kind, group, head_dim, q_THD.dtype, chip)
            programs = kind.num_tiles(tile, ragged) * num_heads // group
            size = kind.num_slots(group, ragged) * num_heads * (head_dim + 2)
            spread = kind.spreads(programs, ragged.max_keys, size, num_sms)
            _attend_class(q_THD, kv_PSKD, out_TJ, ragged, scale, (kind, tile, spread))
    return out_TJ


def _attend_class(
    q_THD: torch.Tensor, kv_PSKD: torch.Tensor, out_TJ: torch.Tensor, ragged: Ragged, scale: float,
    how: tuple[Class, Tile, bool],
) -> None:  # fmt: skip
    """Attends the rows of one class with its tile, spread over several programs or not."""
    kind, tile, spread = how
    _, num_heads, head_dim = q_THD.shape
    num_rows, num_kv_heads = ragged.num_keys_N.shape[0], kv_PSKD.shape[2] // 2
    group = num_heads // num_kv_heads
    num_splits, num_slots = kind.num_splits(ragged.max_keys), kind.num_slots(group, ragged)
    fewest, most = kind.bounds(group)
    per_row = 0 if num_slots == ragged.num_tokens else min(most, ragged.max_queries)
    part, stats = out_TJ, out_TJ
    if spread:
        part, stats = (
            q_THD.new_empty((num_slots, num_heads, num_splits, width), dtype=torch.float32) for width in (head_dim, 2)
        )
    shared = {
        "DIM": head_dim, "PADDED_DIM": 1 << (head_dim - 1).bit_length(), "QUERIES": tile.queries, "FEWEST": fewest,
        "MOST": most, "FIRST_SPLIT": kind.first_split, "PER_OCTAVE": kind.per_octave,
    }  # fmt: skip
    words = ragged.mask_word_T if kind.may_have_words else None
    runtime.launch(
        _attend, (kind.num_tiles(tile, ragged), num_kv_heads, num_splits if spread else 1),
        q_THD, kv_PSKD, ragged.page_table_NP, ragged.query_start_N1, ragged.num_keys_N, ragged.last_key_T, words,
        part, stats, scale * LOG2_E, q_THD.stride(0), q_THD.stride(1), num_rows, ragged.page_table_NP.stride(0),
        num_splits, per_row, **shared, GROUP=group, NUM_KV=num_kv_heads, SLOT_STRIDE=kv_PSKD.stride(1),
        HEAD_STRIDE=kv_PSKD.stride(2), PAGE=kv_PSKD.shape[1], BLOCK_M=tile.rows, BLOCK_N=tile.keys,
        ONE_TILE=kind.one_tile, SPREAD=spread, PRECISION="ieee" if q_THD.dtype == torch.float32 else "tf32",
        num_warps=tile.num_warps, num_stages=tile.num_stages, maxnreg=tile.max_registers,
    )  # fmt: skip
    if spread:
        runtime.launch(
            _merge_splits, (num_slots, num_heads),
            part, stats, ragged.query_start_N1, ragged.num_keys_N, ragged.last_key_T, out_TJ, num_rows, num_splits,
            per_row, **shared, BLOCK_Q=1 << (tile.queries - 1).bit_length(), num_warps=1,
        )  # fmt: skip


@jit
def _row_of(index, query_start_at, num_rows, QUERIES: tl.constexpr, ROW_BONUS: tl.constexpr):
    """Returns the last row n with query_start[n] // QUERIES + n * ROW_BONUS <= index (as vLLM's Triton attention)."""
    low = num_rows * 0
    high = num_rows
    while high - low > 1:
        middle = (low + high) // 2
        if tl.load(query_start_at + middle) // QUERIES + middle * ROW_BONUS <= index:
            low = middle
        else:
            high = middle
    return low


@jit
def _split_start(split, FIRST_SPLIT: tl.constexpr, PER_OCTAVE: tl.constexpr):
    """Returns the first key of a split: PER_OCTAVE splits of the first length, then as many for each doubling."""
    octave = tl.maximum(split // PER_OCTAVE - 1, 0)
    return FIRST_SPLIT * ((split - octave * PER_OCTAVE) << octave)


@jit
def _splits_of(num_keys, FIRST_SPLIT: tl.constexpr, PER_OCTAVE: tl.constexpr):
    """Returns the number of splits that begin before key `num_keys`."""
    last = (num_keys + FIRST_SPLIT - 1) // FIRST_SPLIT - 1  # of units of the first length
    octave = num_keys * 0
    while (last >> octave) >= 2 * PER_OCTAVE:
        octave += 1
    return octave * PER_OCTAVE + (last >> octave) + 1


@jit
def _key_offset(page, key, PAGE: tl.constexpr, SLOT_STRIDE: tl.constexpr):
    """Returns the place of a key in the cache in elements, in 64 bits: caches have more than 2^31 elements."""
    return (page.to(tl.int64) * PAGE + key % PAGE) * SLOT_STRIDE


@jit
def _merge(peak, total, sums, next_peak, next_total, next_sums):
    """Returns the peak, total and numerators of what came before and of the next split together."""
    new_peak = tl.maximum(peak, next_peak)
    safe = tl.where(new_peak == -float("inf"), 0.0, new_peak)
    kept, added = tl.exp2(peak - safe), tl.exp2(next_peak - safe)
    total = tl.fma(next_total, added, total * kept)
    sums = tl.fma(next_sums, added[:, None], sums * kept[:, None])
    return new_peak, total, sums


@jit
def _split(
    q, kv_at, table_at, word_at, split, end, last, own_from, scale, DIM: tl.constexpr, BLOCK_N: tl.constexpr,
    PAGE: tl.constexpr, SLOT_STRIDE: tl.constexpr, VALUES_FROM: tl.constexpr, FIRST_SPLIT: tl.constexpr,
    PER_OCTAVE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Returns peak, total and numerators of a tile of queries over the keys of a split that lie before `end`."""
    begin = 0
    if FIRST_SPLIT > 0:
        begin = _split_start(split, FIRST_SPLIT, PER_OCTAVE)
        end = tl.minimum(_split_start(split + 1, FIRST_SPLIT, PER_OCTAVE), end)
    BLOCK_M: tl.constexpr = q.shape[0]
    PADDED_DIM: tl.constexpr = q.shape[1]
    dim = tl.arange(0, PADDED_DIM)
    last = tl.minimum(last, end - 1)
    peak = tl.full([BLOCK_M], -float("inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    sums = tl.zeros([BLOCK_M, PADDED_DIM], tl.float32)
    for start in range(begin, end, BLOCK_N):
        key = start + tl.arange(0, BLOCK_N)
        # A page that holds no seen key is not read, and its values must be zero here: 0 * NaN is NaN.
        inside = key < end
        page = tl.load(table_at + key // PAGE, mask=inside, other=0)
        at = kv_at + _key_offset(page, key, PAGE, SLOT_STRIDE)
        keys = tl.load(at[None, :] + dim[:, None], mask=inside[None, :] & (dim < DIM)[:, None], other=0.0)
        scores = tl.dot(q, keys, input_precision=PRECISION)
        seen = key[None, :] <= last[:, None]
        if word_at is not None:
            own = key - own_from
            bit = (word_at[:, None] >> tl.minimum(tl.maximum(own, 0), 63)[None, :].to(tl.int64)) & 1
            seen = seen & ((own < 0)[None, :] | (bit != 0))
        scores = tl.where(seen, scores, -float("inf"))
        new_peak = tl.maximum(peak, tl.ceil(tl.max(scores, 1) * scale))
        safe = tl.where(new_peak == -float("inf"), 0.0, new_peak)
        weights = tl.exp2(tl.fma(scores, scale, -safe[:, None]))
        kept = tl.exp2(peak - safe)
        value_at = at[:, None] + VALUES_FROM + dim[None, :]
        values = tl.load(value_at, mask=inside[:, None] & (dim < DIM)[None, :], other=0.0)
        sums = tl.dot(weights.to(values.dtype), values, sums * kept[:, None], input_precision=PRECISION)
        total = tl.fma(total, kept, tl.sum(weights, 1))
        peak = new_peak
    return peak, total, sums


@jit(do_not_specialize=PER_STEP, do_not_specialize_on_alignment=PER_STEP)
def _attend(
    q_at, kv_at, page_table_at, query_start_at, num_keys_at, last_key_at, mask_word_at, out_at, stats_at, scale,
    q_stride, q_head_stride, num_rows, table_stride, num_splits, per_row,
    GROUP: tl.constexpr, DIM: tl.constexpr, PADDED_DIM: tl.constexpr, QUERIES: tl.constexpr, FEWEST: tl.constexpr,
    MOST: tl.constexpr, FIRST_SPLIT: tl.constexpr, PER_OCTAVE: tl.constexpr, SLOT_STRIDE: tl.constexpr,
    HEAD_STRIDE: tl.constexpr, NUM_KV: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    PAGE: tl.constexpr, ONE_TILE: tl.constexpr, SPREAD: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One tile: up to QUERIES queries of one row, times the GROUP query heads of one KV head."""
    tile, head = tl.program_id(0), tl.program_id(1)
    row, first = tile if ONE_TILE else _row_of(tile, query_start_at, num_rows, QUERIES, 1), 0
    begin = tl.load(query_start_at + row)
    queries = tl.load(query_start_at + row + 1) - begin
    if not ONE_TILE:
        first = (tile - begin // QUERIES - row) * QUERIES
    if (queries < FEWEST) | (queries > MOST) | (first >= queries):
        return
    place = tl.arange(0, BLOCK_M)
    query = first + place // GROUP
    live = (place < QUERIES * GROUP) & (query < queries)
    token = (begin + query).to(tl.int64)
    query_head = head * GROUP + place % GROUP
    dim = tl.arange(0, PADDED_DIM)
    shown = live[:, None] & (dim < DIM)[None, :]
    q_place = token * q_stride + query_head.to(tl.int64) * q_head_stride
    q = tl.load(q_at + q_place[:, None] + dim[None, :], mask=shown, other=0.0)
    last = tl.load(last_key_at + token, mask=live, other=-1)
    num_keys = tl.load(num_keys_at + row)
    end = tl.minimum(tl.max(last, 0) + 1, num_keys)
    words = None if mask_word_at is None else tl.load(mask_word_at + token, mask=live, other=-1)
    own_from = num_keys - queries
    table_at, head_at = page_table_at + row.to(tl.int64) * table_stride, kv_at + head.to(tl.int64) * HEAD_STRIDE
    at = token * (NUM_KV * GROUP) + query_head
    if SPREAD:
        # The longest split first, so that the last programs to end are short.
        split = _splits_of(end, FIRST_SPLIT, PER_OCTAVE) - 1 - tl.program_id(2)
        if split >= 0:
            peak, total, sums = _split(
                q, head_at, table_at, words, split, end, last, own_from, scale, DIM, BLOCK_N, PAGE, SLOT_STRIDE,
                NUM_KV * HEAD_STRIDE, FIRST_SPLIT, PER_OCTAVE, PRECISION,
            )  # fmt: skip
            slot = tl.where(per_row == 0, token, (row * per_row + query).to(tl.int64))
            part = (slot * (NUM_KV * GROUP) + query_head) * num_splits + split
            tl.store(out_at + part[:, None] * DIM + dim[None, :], sums, mask=shown)
            tl.store(stats_at + part * 2, peak, mask=live)
            tl.store(stats_at + part * 2 + 1, total, mask=live)
    else:
        peak = tl.full([BLOCK_M], -float("inf"), tl.float32)
        total = tl.zeros([BLOCK_M], tl.float32)
        sums = tl.zeros([BLOCK_M, PADDED_DIM], tl.float32)
        if FIRST_SPLIT == 0:
            peak, total, sums = _split(
                q, head_at, table_at, words, 0, end, last, own_from, scale, DIM, BLOCK_N, PAGE, SLOT_STRIDE,
                NUM_KV * HEAD_STRIDE, FIRST_SPLIT, PER_OCTAVE, PRECISION,
            )  # fmt: skip
        else:
            for split in range(_splits_of(end, FIRST_SPLIT, PER_OCTAVE)):
                next_peak, next_total, next_sums = _split(
                    q, head_at, table_at, words, split, end, last, own_from, scale, DIM, BLOCK_N, PAGE, SLOT_STRIDE,
                    NUM_KV * HEAD_STRIDE, FIRST_SPLIT, PER_OCTAVE, PRECISION,
                )  # fmt: skip
                peak, total, sums = _merge(peak, total, sums, next_peak, next_total, next_sums)
        result = sums * (1.0 / tl.where(total == 0.0, 1.0, total))[:, None]
        tl.store(out_at + at[:, None] * DIM + dim[None, :], result.to(out_at.dtype.element_ty), mask=shown)


@jit(do_not_specialize=PER_STEP, do_not_specialize_on_alignment=PER_STEP)
def _merge_splits(
    part_at, stats_at, query_start_at, num_keys_at, last_key_at, out_at, num_rows, num_splits, per_row,
    DIM: tl.constexpr, PADDED_DIM: tl.constexpr, QUERIES: tl.constexpr, FEWEST: tl.constexpr, MOST: tl.constexpr,
    FIRST_SPLIT: tl.constexpr, PER_OCTAVE: tl.constexpr, BLOCK_Q: tl.constexpr,
):  # fmt: skip
    """One query head of one token: merges what `_attend` left, in the order of the splits."""
    slot, head = tl.program_id(0), tl.program_id(1)
    if per_row == 0:  # one slot for each token
        row = _row_of(slot, query_start_at, num_rows, 1, 0)
        token = slot
    else:
        row = slot // per_row
        token = tl.load(query_start_at + row) + slot % per_row
    begin, behind = tl.load(query_start_at + row), tl.load(query_start_at + row + 1)
    if (behind - begin < FEWEST) | (behind - begin > MOST) | (token >= behind):
        return
    # The splits that the token's tile had: up to the last key that any of its queries sees.
    mate = token - (token - begin) % QUERIES + tl.arange(0, BLOCK_Q)
    tile_end = tl.minimum(token - (token - begin) % QUERIES + QUERIES, behind)
    last = tl.load(last_key_at + mate, mask=mate < tile_end, other=-1)
    end = tl.minimum(tl.max(last, 0) + 1, tl.load(num_keys_at + row))
    at = slot.to(tl.int64) * tl.num_programs(1) + head
    dim = tl.arange(0, PADDED_DIM)
    peak = tl.full([1], -float("inf"), tl.float32)
    total = tl.zeros([1], tl.float32)
    sums = tl.zeros([1, PADDED_DIM], tl.float32)
    for split in tl.range(0, _splits_of(end, FIRST_SPLIT, PER_OCTAVE), loop_unroll_factor=8):
        part = at * num_splits + split + tl.arange(0, 1)
        next_sums = tl.load(part_at + part[:, None] * DIM + dim[None, :], mask=(dim < DIM)[None, :], other=0.0)
        next_peak, next_total = tl.load(stats_at + part * 2), tl.load(stats_at + part * 2 + 1)
        peak, total, sums = _merge(peak, total, sums, next_peak, next_total, next_sums)
    result = sums * (1.0 / tl.where(total == 0.0, 1.0, total))[:, None]
    out = out_at + (token.to(tl.int64) * tl.num_programs(1) + head) * DIM + dim[None, :]
    tl.store(out, result.to(out_at.dtype.element_ty), mask=(dim < DIM)[None, :])
