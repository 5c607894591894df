"""Packing: where each token, page, slot and wanted row of many chunks stands in the flat batch."""

from __future__ import annotations

import torch
from trimode.workers.decode.chunk import Chunk
from trimode.workers.model.batch import Batch, int64, pack

PAGE = 4


def chunk(
    ids: list[int], position: int, *, causal: bool = True, rows: tuple[int, ...] = (), lora: bool = False
) -> Chunk:
    return Chunk("decode", ids, position, causal=causal, keep_kv=True, rows=rows, purpose="decode", lora=lora)


def packed(*chunks: Chunk, tables: list[list[int]]) -> Batch:
    return pack(list(chunks), tables, PAGE, torch.device("cpu"))


def test_positions_and_slots_follow_the_page_table() -> None:
    batch = packed(chunk([11, 12, 13], 6), tables=[[5, 2, 9]])
    assert batch.token_ids_T.tolist() == [11, 12, 13]
    assert batch.positions_T.tolist() == [6, 7, 8]
    assert batch.slots_T.tolist() == [2 * PAGE + 2, 2 * PAGE + 3, 9 * PAGE]
    assert batch.num_positions == 9


def test_causal_queries_see_themselves_and_full_ones_the_whole_chunk() -> None:
    batch = packed(chunk([1, 2], 5), chunk([3, 4], 5, causal=False), tables=[[0, 1], [2, 3]])
    ragged = batch.ragged
    assert ragged.last_key_T.tolist() == [5, 6, 6, 6]
    assert ragged.num_keys_N.tolist() == [7, 7]
    assert ragged.query_start_N1.tolist() == [0, 2, 4]
    assert ragged.page_table_NP.tolist() == [[0, 1], [2, 3]]


def test_chunks_of_like_size_stand_side_by_side() -> None:
    chunks = [chunk([1] * 3, 0), chunk([2], 30), chunk([3] * 3, 0), chunk([4], 2), chunk([5], 29)]
    batch = packed(*chunks, tables=[[page] * 8 for page in range(5)])
    assert batch.order == (3, 1, 4, 0, 2)
    assert batch.token_ids_T.tolist() == [4, 2, 5, 1, 1, 1, 3, 3, 3]
    assert [len(row.last_keys) for row in batch.ragged.rows] == [1, 1, 1, 3, 3]


def test_wanted_rows_are_flat_indices_in_the_order_of_the_batch() -> None:
    batch = packed(chunk([1, 2, 3], 0, rows=(0, 2)), chunk([4], 0, rows=(0,)), tables=[[0], [1]])
    assert batch.order == (1, 0)
    assert batch.logit_rows_R.tolist() == [0, 1, 3]


def test_the_adapter_is_on_for_none_some_or_all_tokens() -> None:
    off, on = chunk([1, 2], 0), chunk([3, 4], 0, lora=True)
    none = packed(off, tables=[[0]])
    some = packed(off, on, tables=[[0], [1]])
    whole = packed(on, tables=[[0]])
    assert (none.lora_rows, none.lora_T, none.lora_all) == (None, None, False)
    assert some.lora_rows is not None
    assert some.lora_T is not None
    assert some.lora_T.tolist() == [0, 0, 1, 1]
    assert (some.lora_rows.tolist(), some.lora_all) == ([2, 3], False)
    assert whole.lora_all


def test_int64_of_nothing_is_empty() -> None:
    assert int64([]).shape == (0,)
    assert int64(range(3)).tolist() == [0, 1, 2]
