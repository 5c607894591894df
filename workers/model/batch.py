"""Packs the chunks of many requests, of all modes, into the flat tensors of one ragged forward."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from trimode.kernels.paged_attention import Ragged, Row, describe_rows
from trimode.workers.decode.chunk import Chunk


@dataclass(frozen=True, slots=True)
class Batch:
    """One ragged forward. T = tokens, R = logit rows."""

    token_ids_T: torch.Tensor
    positions_T: torch.Tensor
    slots_T: torch.Tensor
    """Where K and V of each token are written: page * page_size + offset."""
    num_positions: int
    """Larger than every position of the batch; known on the host."""
    ragged: Ragged
    """The rows as attention sees them: one per chunk."""
    lora_rows: torch.Tensor | None
    """Flat token indices with the adapter on; None = none, or a batch of a captured graph."""
    lora_T: torch.Tensor | None
    """int32: 1 for a token with the adapter on, else 0; None = none."""
    lora_all: bool
    """True if every token has the adapter on."""
    logit_rows_R: torch.Tensor
    """Flat token indices whose logits are wanted, chunk by chunk in `order`."""
    order: tuple[int, ...]
    """Chunk indices in the order in which they stand in the batch."""


def int64(values: Iterable[int]) -> torch.Tensor:
    """Returns the values as a tensor on the host; `torch.tensor` takes five times as long to walk a list."""
    data = array("q", values)
    return torch.frombuffer(data, dtype=torch.int64) if data else torch.empty(0, dtype=torch.int64)


def _indicator(rows: Sequence[int], length: int) -> torch.Tensor:
    """Returns int32 `[length]` with 1 at the given rows and 0 elsewhere."""
    flags = array("i", bytes(4 * length))
    for row in rows:
        flags[row] = 1
    return torch.frombuffer(flags, dtype=torch.int32)


def _size(chunk: Chunk, page_size: int) -> tuple[int, int]:
    """Number of queries, and the pages of the keys as a power of two."""
    num_pages = -(-(chunk.position + len(chunk.token_ids)) // page_size)
    return len(chunk.token_ids), (num_pages - 1).bit_length()


def pack(chunks: list[Chunk], page_tables: list[list[int]], page_size: int, device: torch.device) -> Batch:
    """Returns one Batch of all `chunks`; `page_tables[i]` holds the pages of chunk i's request.

    Chunks of like size stand side by side, so that an operator that groups rows finds them together.

    Args:
        chunks: at least one, none empty.
        page_tables: pages cover position + length of each chunk.
        page_size: tokens per page.
        device: where the tensors go.
    """
    order = sorted(range(len(chunks)), key=lambda i: (_size(chunks[i], page_size), i))
    ids: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    lora: list[int] = []
    wanted: list[int] = []
    rows: list[Row] = []
    for i in order:
        chunk, table, start = chunks[i], page_tables[i], len(ids)
        end = chunk.position + len(chunk.token_ids)
        span = range(chunk.position, end)
        rows.append(Row(pages=table, num_keys=end, last_keys=span if chunk.causal else [end - 1] * len(span)))
        ids += chunk.token_ids
        positions += span
        slots += [table[p // page_size] * page_size + p % page_size for p in span]
        wanted += [start + row for row in chunk.rows]
        if chunk.lora:
            lora += range(start, len(ids))
    return Batch(
        token_ids_T=int64(ids).to(device, non_blocking=True),
        positions_T=int64(positions).to(device, non_blocking=True),
        slots_T=int64(slots).to(device, non_blocking=True),
        num_positions=max(positions) + 1,
        ragged=describe_rows(rows, page_size, device),
        lora_rows=int64(lora).to(device, non_blocking=True) if lora else None,
        lora_T=_indicator(lora, len(ids)).to(device, non_blocking=True) if lora else None,
        lora_all=len(lora) == len(ids),
        logit_rows_R=int64(wanted).to(device, non_blocking=True),
        order=tuple(order),
    )
