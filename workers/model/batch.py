"""Packs the chunks of many requests, of all modes, into the flat tensors of one ragged forward.

Knows chunk shapes and page tables; knows nothing of modes, sampling or weights.
"""

from __future__ import annotations

import dataclasses
from array import array
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from trimode.workers.decode.chunk import Chunk


@dataclass(frozen=True, slots=True)
class AttentionGroup:
    """Rows of one forward that have the same number of queries and about the same KV length: one attention call."""

    first_token: int
    """Where the group's tokens start in the flat batch."""
    num_rows: int
    num_queries: int
    """Per row."""
    pages: torch.Tensor
    """int64 `[rows, pages]`, padded with page 0."""
    first_page: int | None
    """One row whose pages lie in one run starting here: its keys are a view, not a gather."""
    num_keys: int
    """Longest KV length of the group, chunk included."""
    last_key: torch.Tensor | None
    """int64 `[rows, queries]`; None when every query sees all `num_keys`."""


@dataclass(frozen=True, slots=True)
class Batch:
    """One ragged forward. T = tokens, R = logit rows."""

    token_ids_T: torch.Tensor
    positions_T: torch.Tensor
    slots_T: torch.Tensor
    """Where each token's K and V are written: page * page_size + offset."""
    num_positions: int
    """Above every position of the batch, known without asking the device."""
    groups: tuple[AttentionGroup, ...]
    lora_rows: torch.Tensor | None
    """Flat token indices with the adapter on; None = none."""
    lora_all: bool
    """Every token has the adapter on."""
    logit_rows_R: torch.Tensor
    """Flat token indices whose logits are wanted, chunk by chunk in `order`."""
    order: tuple[int, ...]
    """Chunk indices in the order in which they stand in the batch."""


def int64(values: Iterable[int]) -> torch.Tensor:
    """A tensor on the host; `torch.tensor` takes five times as long to walk a list."""
    data = array("q", values)
    return torch.frombuffer(data, dtype=torch.int64) if data else torch.empty(0, dtype=torch.int64)


def _group_key(chunk: Chunk, page_size: int) -> tuple[int, int]:
    """Same queries, and KV lengths within a factor of two, so that padding at most doubles an attention call."""
    num_pages = -(-(chunk.position + len(chunk.token_ids)) // page_size)
    return len(chunk.token_ids), (num_pages - 1).bit_length()


def _group(chunks: list[Chunk], tables: list[list[int]], first_token: int, page_size: int) -> AttentionGroup:
    num_queries = len(chunks[0].token_ids)
    ends = [chunk.position + num_queries for chunk in chunks]
    num_keys = max(ends)
    width = -(-num_keys // page_size)
    pages = [(table[:width] + [0] * width)[:width] for table in tables]
    full = all(
        end == num_keys and (num_queries == 1 or not chunk.causal) for chunk, end in zip(chunks, ends, strict=True)
    )
    run = len(chunks) == 1 and pages[0] == list(range(pages[0][0], pages[0][0] + width))
    last_key = None
    if not full:
        first = [chunk.position if chunk.causal else end - 1 for chunk, end in zip(chunks, ends, strict=True)]
        step = int64([int(chunk.causal) for chunk in chunks])
        last_key = int64(first).unsqueeze(1) + step.unsqueeze(1) * torch.arange(num_queries)
    return AttentionGroup(
        first_token=first_token,
        num_rows=len(chunks),
        num_queries=num_queries,
        pages=int64(page for table in pages for page in table).view(len(chunks), width),
        first_page=pages[0][0] if run else None,
        num_keys=num_keys,
        last_key=last_key,
    )


def pack(chunks: list[Chunk], page_tables: list[list[int]], page_size: int, device: torch.device) -> Batch:
    """One Batch from `chunks`; `page_tables[i]` holds the pages of chunk i's request.

    Args:
        chunks: at least one, none empty.
        page_tables: pages cover position + length of each chunk.
        page_size: tokens per page.
        device: where the tensors go.
    """
    keys = [_group_key(chunk, page_size) for chunk in chunks]
    order = sorted(range(len(chunks)), key=lambda i: (keys[i], i))
    ids: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    lora: list[int] = []
    wanted: list[int] = []
    groups: list[AttentionGroup] = []
    members: list[int] = []
    for place, i in enumerate(order):
        chunk, table, start = chunks[i], page_tables[i], len(ids)
        span = range(chunk.position, chunk.position + len(chunk.token_ids))
        ids += chunk.token_ids
        positions += span
        slots += [table[p // page_size] * page_size + p % page_size for p in span]
        wanted += [start + row for row in chunk.rows]
        if chunk.lora:
            lora += range(start, len(ids))
        members.append(i)
        if place + 1 == len(order) or keys[order[place + 1]] != keys[i]:
            first = len(ids) - len(members) * len(chunk.token_ids)
            groups.append(_group([chunks[m] for m in members], [page_tables[m] for m in members], first, page_size))
            members = []
    return Batch(
        token_ids_T=int64(ids).to(device, non_blocking=True),
        positions_T=int64(positions).to(device, non_blocking=True),
        slots_T=int64(slots).to(device, non_blocking=True),
        num_positions=max(positions) + 1,
        groups=tuple(groups) if device.type == "cpu" else tuple(_to_device(group, device) for group in groups),
        lora_rows=int64(lora).to(device, non_blocking=True) if lora else None,
        lora_all=len(lora) == len(ids),
        logit_rows_R=int64(wanted).to(device, non_blocking=True),
        order=tuple(order),
    )


def _to_device(group: AttentionGroup, device: torch.device) -> AttentionGroup:
    last_key = None if group.last_key is None else group.last_key.to(device, non_blocking=True)
    return dataclasses.replace(group, pages=group.pages.to(device, non_blocking=True), last_key=last_key)
