"""The numbers of a step at fixed addresses on the device, where captured graphs read them.

T = tokens, N = requests, P = pages of the longest possible request.
"""

from __future__ import annotations

import dataclasses
from array import array
from collections.abc import Sequence

import torch
from trimode.kernels.packing import Array, Part, host_buffer
from trimode.workers.decode.chunk import Chunk, Commit, Verify
from trimode.workers.engine.buckets import Bucket
from trimode.workers.engine.scheduler import ScheduledChunk
from trimode.workers.model.batch import Batch, Layout, pack_into
from trimode.workers.model.kv_cache import PAGE_SIZE
from trimode.workers.sampling.greedy import Rules


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
        self._layouts: dict[tuple[Bucket, int], tuple[Layout, torch.Tensor]] = {}
        num_bytes = max(_layout(bucket, num_pages).num_bytes for bucket in buckets)
        self._buffer = torch.zeros(num_bytes, dtype=torch.uint8, device=device)
        self._tables = torch.zeros(
            (max(bucket.requests for bucket in buckets), num_pages), dtype=torch.int32, device=device
        )

    @property
    def tensors(self) -> list[torch.Tensor]:
        """All memory that graphs read."""
        return [self._buffer, self._tables]

    def blank(self, bucket: Bucket) -> None:
        """Fills the buffer for a run of the bucket's graph in which all tokens are padding."""
        self._buffer.zero_()
        batch = self.batch(bucket)
        batch.slots_T.fill_(self._spare_page * PAGE_SIZE)
        if batch.source_T is not None:
            batch.source_T.fill_(-1)

    def write(self, bucket: Bucket, scheduled: Sequence[ScheduledChunk], sources: Sequence[int] = ()) -> None:
        """Fills the buffer for a replay of the bucket's graph. The host does not wait for the copy.

        Args:
            bucket: with room for the chunks.
            scheduled: what runs, in the order of `batch_order`.
            sources: see `pack_into`. They are places in the tokens that `Graphs` keeps of the step before.
        """
        chunks = [item.chunk for item in scheduled]
        used = max(-(-(chunk.position + len(chunk.token_ids)) // PAGE_SIZE) for chunk in chunks)
        # Powers of two, so that there are few layouts.
        width = min(1 << (used - 1).bit_length(), self._tables.shape[1])
        layout, narrow_NP = self._layout(bucket, width)
        host = host_buffer(layout.num_bytes, self._device)
        tables = [item.sequence.pages for item in scheduled]
        rules = _rules(bucket, chunks)
        pack_into(layout, host, chunks, tables, self._spare_page, sources=sources, more=rules)
        self._buffer[: layout.num_bytes].copy_(host, non_blocking=True)
        self._tables[: bucket.requests, :width].copy_(narrow_NP)

    def batch(self, bucket: Bucket) -> Batch:
        """Returns the batch as the bucket's graph reads it; the logits of all tokens are wanted."""
        batch = self._layout(bucket, 1)[0].batch(self._buffer)
        tables = self._tables[: bucket.requests]
        ragged = dataclasses.replace(batch.ragged, page_table_NP=tables, max_keys=tables.shape[1] * PAGE_SIZE)
        return dataclasses.replace(batch, num_positions=ragged.max_keys, ragged=ragged, logit_rows_R=None)

    def logit_rows(self, bucket: Bucket, count: int) -> torch.Tensor:
        """Returns the wanted tokens of what was written last, int64 `[count]`."""
        return self._layout(bucket, 1)[0].buffer.views(self._buffer)["logit_rows_R"][:count]

    def _layout(self, bucket: Bucket, width: int) -> tuple[Layout, torch.Tensor]:
        """Returns the layout with page tables of this width, and these tables in the buffer."""
        key = (bucket, width)
        if key not in self._layouts:
            layout = _layout(bucket, width)
            self._layouts[key] = layout, layout.buffer.views(self._buffer)["page_table_NP"]
        return self._layouts[key]


def rules_of(batch: Batch, bucket: Bucket) -> Rules:
    """Returns the decisions that are asked for, as the bucket's graph reads them."""
    return Rules(query_start_N1=batch.ragged.query_start_N1, max_queries=bucket.max_queries, **batch.more)


def _layout(bucket: Bucket, width: int) -> Layout:
    return Layout(
        bucket.tokens,
        bucket.requests,
        width,
        bucket.tokens,
        page_size=PAGE_SIZE,
        max_queries=bucket.max_queries,
        min_queries=bucket.min_queries,
        lora_tokens=None if bucket.lora else 0,
        more=(
            Part("num_best_N", torch.int64, (bucket.requests,)),
            Part("thresholds_N", torch.float32, (bucket.requests,)),
            Part("verify_N", torch.int32, (bucket.requests,)),
            Part("wanted_T", torch.int32, (bucket.tokens,)),
        ),
    )


def _rules(bucket: Bucket, chunks: Sequence[Chunk]) -> dict[str, Array]:
    """Returns the rules of the chunks, which stand in the order of the batch."""
    num_best, verify, thresholds = array("q"), array("i"), array("f")
    wanted = array("i", bytes(4 * bucket.tokens))
    start = 0
    for chunk in chunks:
        rule = chunk.selection
        num_best.append(rule.num_best if isinstance(rule, Commit) else 1)
        thresholds.append(rule.threshold if isinstance(rule, Commit) else 0.0)
        verify.append(isinstance(rule, Verify))
        for row in chunk.rows:
            wanted[start + row] = 1
        start += len(chunk.token_ids)
    return {"num_best_N": num_best, "thresholds_N": thresholds, "verify_N": verify, "wanted_T": wanted}
