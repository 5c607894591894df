"""The numbers of a step at fixed addresses on the device, where captured graphs read them.

T = tokens, N = requests, P = pages of the longest possible request.
"""

from __future__ import annotations

import dataclasses
from array import array
from collections.abc import Sequence

import torch
from trimode.kernels.packing import BufferLayout, Part, host_buffer, memory_of
from trimode.workers.decode.chunk import Chunk, Commit, Verify
from trimode.workers.engine.buckets import Bucket
from trimode.workers.engine.scheduler import ScheduledChunk
from trimode.workers.model.batch import Batch, Layout, Packed, pack_into
from trimode.workers.model.kv_cache import PAGE_SIZE
from trimode.workers.sampling.greedy import Rules

_Key = tuple[int, int, bool]


class StaticInput:
    """One buffer for all graphs: they run one at a time. A step fills it by one copy from the host.

    The copy holds the page tables as far as they are used. They are spread on the device into tables of full width,
    which would be megabytes per step if they were copied whole.
    """

    def __init__(self, buckets: Sequence[Bucket], num_pages: int, spare_page: int, device: torch.device) -> None:
        """Allocates the buffer.

        Args:
            buckets: all graphs.
            num_pages: P.
            spare_page: page that padding tokens write to.
            device: where the buffer is.
        """
        self._device = device
        self._spare_page = spare_page
        self._rules = {(b.tokens, b.requests): _rules_layout(b) for b in buckets}
        self._layouts: dict[tuple[_Key, int], tuple[Layout, torch.Tensor]] = {}
        sizes = [self._rules[b.tokens, b.requests].num_bytes + _layout(b, num_pages).num_bytes for b in buckets]
        self._buffer = torch.zeros(max(sizes), dtype=torch.uint8, device=device)
        self._tables = torch.zeros(
            (max(bucket.requests for bucket in buckets), num_pages), dtype=torch.int32, device=device
        )

    @property
    def tensors(self) -> list[torch.Tensor]:
        """All memory that graphs read."""
        return [self._buffer, self._tables]

    def write(self, bucket: Bucket, scheduled: Sequence[ScheduledChunk]) -> Packed:
        """Fills the buffer for a replay of the bucket's graph. The host does not wait for the copy.

        Args:
            bucket: with room for the chunks.
            scheduled: what runs.
        """
        chunks = [item.chunk for item in scheduled]
        used = max(-(-(chunk.position + len(chunk.token_ids)) // PAGE_SIZE) for chunk in chunks)
        # Powers of two, so that there are few layouts.
        width = min(1 << (used - 1).bit_length(), self._tables.shape[1])
        layout, narrow_NP = self._layout(bucket, width)
        rules = self._rules[bucket.tokens, bucket.requests]
        host = host_buffer(rules.num_bytes + layout.num_bytes, self._device)
        tables = [item.sequence.pages for item in scheduled]
        packed = pack_into(layout, host[rules.num_bytes :], chunks, tables, self._spare_page)
        _write_rules(rules, memory_of(host), bucket, [chunks[i] for i in packed.order])
        self._buffer[: host.shape[0]].copy_(host, non_blocking=True)
        self._tables[: bucket.requests, :width].copy_(narrow_NP)
        return packed

    def batch(self, bucket: Bucket) -> Batch:
        """Returns the batch as the bucket's graph reads it; the logits of all tokens are wanted."""
        layout, _ = self._layout(bucket, 1)
        batch = layout.batch(self._buffer[self._rules[bucket.tokens, bucket.requests].num_bytes :])
        num_pages = self._tables.shape[1]
        tables = self._tables[: bucket.requests]
        ragged = dataclasses.replace(batch.ragged, page_table_NP=tables, max_keys=num_pages * PAGE_SIZE)
        return dataclasses.replace(batch, num_positions=ragged.max_keys, ragged=ragged, logit_rows_R=None)

    def logit_rows(self, bucket: Bucket, count: int) -> torch.Tensor:
        """Returns the wanted tokens of what was written last, int64 `[count]`."""
        layout, _ = self._layout(bucket, 1)
        views = layout.buffer.views(self._buffer[self._rules[bucket.tokens, bucket.requests].num_bytes :])
        return views["logit_rows_R"][:count]

    def rules(self, bucket: Bucket) -> Rules:
        """Returns the decisions that are asked for, as the bucket's graph reads them."""
        views = self._rules[bucket.tokens, bucket.requests].views(self._buffer)
        return Rules(
            query_start_N1=self.batch(bucket).ragged.query_start_N1,
            wanted_T=views["wanted_T"],
            thresholds_N=views["thresholds_N"],
            num_best_N=views["num_best_N"],
            verify_N=views["verify_N"],
            max_queries=bucket.max_queries,
        )

    def _layout(self, bucket: Bucket, width: int) -> tuple[Layout, torch.Tensor]:
        """Returns the layout with page tables of this width, and these tables in the buffer."""
        key = ((bucket.tokens, bucket.requests, bucket.lora), width)
        if key not in self._layouts:
            layout = _layout(bucket, width)
            start = self._rules[bucket.tokens, bucket.requests].num_bytes
            views = layout.buffer.views(self._buffer[start : start + layout.num_bytes])
            self._layouts[key] = layout, views["page_table_NP"]
        return self._layouts[key]


def _layout(bucket: Bucket, width: int) -> Layout:
    return Layout(
        bucket.tokens,
        bucket.requests,
        width,
        bucket.tokens,
        max_queries=bucket.max_queries,
        lora_tokens=None if bucket.lora else 0,
        page_size=PAGE_SIZE,
    )


def _rules_layout(bucket: Bucket) -> BufferLayout:
    return BufferLayout([
        Part("num_best_N", torch.int64, (bucket.requests,)),
        Part("thresholds_N", torch.float32, (bucket.requests,)),
        Part("verify_N", torch.int32, (bucket.requests,)),
        Part("wanted_T", torch.int32, (bucket.tokens,)),
    ])


def _write_rules(layout: BufferLayout, memory: memoryview, bucket: Bucket, chunks: Sequence[Chunk]) -> None:
    """Writes the rules of the chunks, which stand in the order of the batch."""
    num_best, verify = array("q", [1]) * bucket.requests, array("i", [0]) * bucket.requests
    thresholds = array("f", [0.0]) * bucket.requests
    wanted = array("i", [0]) * bucket.tokens
    start = 0
    for number, chunk in enumerate(chunks):
        if isinstance(chunk.selection, Commit):
            thresholds[number], num_best[number] = chunk.selection.threshold, chunk.selection.num_best
        verify[number] = isinstance(chunk.selection, Verify)
        for row in chunk.rows:
            wanted[start + row] = 1
        start += len(chunk.token_ids)
    layout.write(memory, "num_best_N", num_best)
    layout.write(memory, "thresholds_N", thresholds)
    layout.write(memory, "verify_N", verify)
    layout.write(memory, "wanted_T", wanted)
