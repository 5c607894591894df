"""Packing: where each token, page, slot and wanted row of many chunks stands in the flat batch."""

from __future__ import annotations

from array import array

import pytest
import torch
from trimode.kernels.packing import Part, host_buffer
from trimode.workers.decode.chunk import Chunk, deferred
from trimode.workers.model.batch import Batch, Layout, exact_layout, pack, pack_into

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
    assert none.lora_T is None
    assert some.lora_T is not None
    assert some.lora_T.tolist() == [0, 0, 1, 1]


def test_all_tensors_of_a_batch_stand_in_one_buffer() -> None:
    batch = packed(chunk([1, 2], 5, rows=(1,)), chunk([3], 5, lora=True), tables=[[0, 1], [2, 3]])
    ragged = batch.ragged
    tensors = [batch.token_ids_T, batch.positions_T, batch.slots_T, batch.logit_rows_R, batch.lora_rows, batch.lora_T]
    tensors += [ragged.page_table_NP, ragged.query_start_N1, ragged.num_keys_N, ragged.last_key_T]
    assert len({tensor.untyped_storage().data_ptr() for tensor in tensors if tensor is not None}) == 1
    assert (ragged.max_queries, ragged.max_keys, ragged.num_tokens) == (2, 7, 3)


def in_bucket(layout: Layout, chunks: list[Chunk], tables: list[list[int]], device: torch.Tensor) -> Batch:
    """The batch of a bucket, packed on the host and copied to a static buffer."""
    batch = layout.batch(device)
    host = host_buffer(layout.num_bytes, torch.device("cpu")).fill_(0xFF)
    pack_into(layout, host, chunks, tables, spare_page=99)
    device[: layout.num_bytes].copy_(host)
    return batch


def test_a_bucket_is_padded_with_tokens_that_belong_to_no_row() -> None:
    layout = Layout(8, 4, 3, 6, page_size=PAGE)
    device = torch.zeros(layout.num_bytes + 64, dtype=torch.uint8)
    chunks = [chunk([1, 2], 5, rows=(0, 1), lora=True), chunk([3], 9, rows=(0,))]
    batch = in_bucket(layout, chunks, [[4, 5], [6, 7, 8]], device)
    assert batch.token_ids_T.tolist() == [3, 1, 2, 0, 0, 0, 0, 0]
    assert batch.positions_T.tolist() == [9, 5, 6, 0, 0, 0, 0, 0]
    assert batch.slots_T.tolist() == [8 * PAGE + 1, 5 * PAGE + 1, 5 * PAGE + 2, *range(396, 400), 396]
    assert batch.logit_rows_R.tolist() == [0, 1, 2, 0, 0, 0]
    assert batch.lora_T is not None
    assert batch.lora_T.tolist() == [0, 1, 1, 0, 0, 0, 0, 0]
    ragged = batch.ragged
    assert ragged.query_start_N1.tolist() == [0, 1, 3, 3, 3]
    assert ragged.num_keys_N.tolist() == [10, 7, 0, 0]
    assert ragged.last_key_T.tolist() == [9, 5, 6, 0, 0, 0, 0, 0]
    assert ragged.page_table_NP.tolist() == [[6, 7, 8], [4, 5, 0], [0] * 3, [0] * 3]
    assert (batch.num_positions, ragged.max_keys, ragged.max_queries, ragged.num_tokens) == (12, 12, 8, 8)
    assert (batch.order, ragged.rows, batch.lora_rows, batch.lora_all) == ((), (), None, False)


def test_a_bucket_is_written_again_for_every_step() -> None:
    layout = Layout(4, 2, 2, 2, page_size=PAGE)
    device = torch.zeros(layout.num_bytes, dtype=torch.uint8)
    batch = in_bucket(layout, [chunk([1, 2, 3, 4], 0, rows=(3,))], [[1]], device)
    addresses = [batch.token_ids_T.data_ptr(), batch.ragged.page_table_NP.data_ptr()]
    in_bucket(layout, [chunk([7], 5, rows=(0,))], [[3, 2]], device)
    assert batch.token_ids_T.tolist() == [7, 0, 0, 0]
    assert batch.ragged.query_start_N1.tolist() == [0, 1, 1]
    assert batch.ragged.page_table_NP.tolist() == [[3, 2], [0, 0]]
    assert [batch.token_ids_T.data_ptr(), batch.ragged.page_table_NP.data_ptr()] == addresses


@pytest.mark.parametrize(
    ("sizes", "name"),
    [((2, 1, 2, 3), "token_ids_T"), ((3, 1, 2, 2), "logit_rows_R"), ((3, 1, 1, 3), "row 0: got 2 pages")],
)
def test_chunks_that_exceed_a_bucket_are_refused(sizes: tuple[int, int, int, int], name: str) -> None:
    layout = Layout(*sizes, page_size=PAGE)
    host = host_buffer(layout.num_bytes, torch.device("cpu"))
    with pytest.raises(ValueError, match=name):
        pack_into(layout, host, [chunk([1, 2, 3], 3, rows=(0, 1, 2))], [[0, 1]], spare_page=9)


def test_more_chunks_than_a_bucket_has_rows_are_refused() -> None:
    layout = Layout(4, 1, 1, 0, page_size=PAGE)
    host = host_buffer(layout.num_bytes, torch.device("cpu"))
    with pytest.raises(ValueError, match="page_table_NP"):
        pack_into(layout, host, [chunk([1], 0), chunk([2], 0)], [[0], [1]], spare_page=9)


def test_an_exact_layout_has_no_padding() -> None:
    chunks = [chunk([1, 2, 3], 6, rows=(2,)), chunk([4], 0, lora=True)]
    layout = exact_layout(chunks, PAGE)
    assert (layout.ragged.tokens, layout.ragged.rows, layout.ragged.pages) == (4, 2, 3)
    assert (layout.logit_rows, layout.lora_tokens, layout.ragged.max_queries) == (1, 1, 3)


def test_further_arrays_travel_in_the_same_buffer() -> None:
    batch = pack([chunk([1], 0)], [[0]], PAGE, torch.device("cpu"), more={"extra": array("d", [0.25, 8.0])})
    assert batch.more["extra"].tolist() == [0.25, 8.0]
    assert batch.more["extra"].untyped_storage().data_ptr() == batch.token_ids_T.untyped_storage().data_ptr()


def test_tokens_that_the_step_before_samples_are_filled_in_on_the_device() -> None:
    known, seed_and_drafts = chunk([7], 3), chunk([deferred(1), deferred(0), 9], 3)
    batch = pack([seed_and_drafts, known], [[0, 1], [2]], PAGE, torch.device("cpu"), sources=[4, 0])
    assert batch.source_T is not None
    assert batch.source_T.tolist() == [-1, 5, 4, -1]
    filled = batch.filled(torch.tensor([10, 11, 12, 13, 14, 15]))
    assert filled.token_ids_T.tolist() == [7, 15, 14, 9]
    assert filled.positions_T.tolist() == [3, 3, 4, 5]


def test_without_deferred_tokens_there_is_nothing_to_fill_in() -> None:
    batch = packed(chunk([1], 0), tables=[[0]])
    assert batch.source_T is None
    assert batch.filled(torch.tensor([5])) is batch


def test_padding_of_a_bucket_is_known() -> None:
    layout = Layout(3, 2, 1, 1, page_size=PAGE, more=(Part("extra", torch.int64, (2,)),))
    host = host_buffer(layout.num_bytes, torch.device("cpu"))
    more = {"extra": array("q", [6])}
    pack_into(layout, host, [chunk([deferred(0)], 0)], [[0]], spare_page=9, sources=[2], more=more)
    batch = layout.batch(host)
    assert batch.source_T is not None
    assert batch.source_T.tolist() == [2, -1, -1]
    assert batch.more["extra"].tolist() == [6, 0]
