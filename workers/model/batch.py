"""Packs the chunks of many requests, of all modes, into the flat tensors of one ragged forward.

All of them stand in one buffer: a step copies it to the device once, and a captured graph reads it at one address.
"""

from __future__ import annotations

import dataclasses
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from trimode.kernels.packing import BufferLayout, Part, host_buffer, memory_of
from trimode.kernels.paged_attention import Ragged, RaggedSizes, Row, view_rows, write_rows
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
    logit_rows_R: torch.Tensor | None
    """Flat token indices whose logits are wanted, chunk by chunk in `order`; None = all tokens."""
    order: tuple[int, ...]
    """Chunk indices in the order in which they stand in the batch; empty in a captured graph."""


@dataclass(frozen=True, slots=True)
class Packed:
    """What is known on the host of the chunks that `pack_into` wrote."""

    order: tuple[int, ...]
    """Chunk indices in the order in which they stand in the batch."""
    rows: tuple[Row, ...]
    """In that order."""
    num_positions: int
    """Larger than every position. Equals the keys of the longest row."""
    num_lora: int
    """Tokens with the adapter on."""


class Layout:
    """A buffer with the tensors of a batch, for chunks of given sizes or for all chunks up to these sizes.

    What is missing to the sizes is padding: tokens that belong to no row and write their K and V into a spare page,
    rows without queries and keys, and logit rows of token 0.
    """

    def __init__(
        self,
        tokens: int,
        rows: int,
        pages: int,
        logit_rows: int,
        *,
        max_queries: int | None = None,
        lora_tokens: int | None = None,
        page_size: int,
    ) -> None:
        """Places the tensors.

        Args:
            tokens: of all chunks.
            rows: number of chunks.
            pages: of the longest chunk's keys.
            logit_rows: wanted rows of all chunks.
            max_queries: tokens of the longest chunk; None = `tokens`.
            lora_tokens: tokens with the adapter on, exactly; None = any number of them, so that `lora_T` alone says
                which.
            page_size: tokens per page.
        """
        self.page_size = page_size
        self.logit_rows = logit_rows
        self.lora_tokens = lora_tokens
        self.ragged = RaggedSizes(
            tokens=tokens,
            rows=rows,
            pages=pages,
            max_queries=tokens if max_queries is None else max_queries,
            max_keys=pages * page_size,
        )
        parts = [Part(name, torch.int64, (tokens,)) for name in ("token_ids_T", "positions_T", "slots_T")]
        parts.append(Part("logit_rows_R", torch.int64, (logit_rows,)))
        if lora_tokens:
            parts.append(Part("lora_rows", torch.int64, (lora_tokens,)))
        if lora_tokens != 0:
            parts.append(Part("lora_T", torch.int32, (tokens,)))
        parts += self.ragged.parts()  # ends with the page table
        self.buffer = BufferLayout(parts)

    @property
    def num_bytes(self) -> int:
        """Size of the buffer."""
        return self.buffer.num_bytes

    def batch(self, buffer: torch.Tensor, packed: Packed | None = None) -> Batch:
        """Returns the batch whose tensors are views of `buffer`.

        Args:
            buffer: uint8, at least `num_bytes`, on the device.
            packed: what stands in it; None if it is written anew before every forward, and only the sizes are known.
        """
        views, sizes = self.buffer.views(buffer), self.ragged
        if packed is not None:
            sizes = dataclasses.replace(sizes, max_keys=packed.num_positions)
        return Batch(
            token_ids_T=views["token_ids_T"],
            positions_T=views["positions_T"],
            slots_T=views["slots_T"],
            num_positions=sizes.max_keys,
            ragged=view_rows(views, self.page_size, sizes, () if packed is None else packed.rows),
            lora_rows=views.get("lora_rows"),
            lora_T=views.get("lora_T"),
            lora_all=packed is not None and packed.num_lora == sizes.tokens,
            logit_rows_R=views["logit_rows_R"],
            order=() if packed is None else packed.order,
        )


def int64(values: Iterable[int]) -> torch.Tensor:
    """Returns the values as a tensor on the host; `torch.tensor` takes five times as long to walk a list."""
    data = array("q", values)
    return torch.frombuffer(data, dtype=torch.int64) if data else torch.empty(0, dtype=torch.int64)


def exact_layout(chunks: Sequence[Chunk], page_size: int) -> Layout:
    """Returns the layout of these chunks without padding."""
    lengths = [len(chunk.token_ids) for chunk in chunks]
    return Layout(
        sum(lengths),
        len(chunks),
        max(_num_pages(chunk, page_size) for chunk in chunks),
        sum(len(chunk.rows) for chunk in chunks),
        max_queries=max(lengths),
        lora_tokens=sum(length for chunk, length in zip(chunks, lengths, strict=True) if chunk.lora),
        page_size=page_size,
    )


def _num_pages(chunk: Chunk, page_size: int) -> int:
    """Pages of the keys."""
    return -(-(chunk.position + len(chunk.token_ids)) // page_size)


def _size(chunk: Chunk, page_size: int) -> tuple[int, int]:
    """Number of queries, and the pages of the keys as a power of two."""
    return len(chunk.token_ids), (_num_pages(chunk, page_size) - 1).bit_length()


def pack_into(
    layout: Layout, host: torch.Tensor, chunks: Sequence[Chunk], page_tables: Sequence[Sequence[int]], spare_page: int
) -> Packed:
    """Writes chunks into a buffer on the host. Chunks of like size stand side by side.

    Args:
        layout: of the buffer.
        host: the buffer, uint8.
        chunks: at least one, none empty.
        page_tables: pages cover position + length of each chunk.
        spare_page: page that padding tokens write to.

    Raises:
        ValueError: the chunks exceed the layout.
    """
    page_size, memory = layout.page_size, memory_of(host)
    order = sorted(range(len(chunks)), key=lambda i: (_size(chunks[i], page_size), i))
    ids, positions, slots, lora, wanted = (array("q") for _ in range(5))
    rows: list[Row] = []
    for i in order:
        chunk, table, start = chunks[i], page_tables[i], len(ids)
        end = chunk.position + len(chunk.token_ids)
        span = range(chunk.position, end)
        rows.append(Row(pages=table, num_keys=end, last_keys=span if chunk.causal else [end - 1] * len(span)))
        ids.extend(chunk.token_ids)
        positions.extend(span)
        slots.extend([table[p // page_size] * page_size + p % page_size for p in span])
        wanted.extend([start + row for row in chunk.rows])
        if chunk.lora:
            lora.extend(range(start, len(ids)))
    num_positions = max(positions) + 1
    missing = layout.ragged.tokens - len(ids)
    if missing > 0:
        ids.extend([0] * missing)
        positions.extend([0] * missing)
        slots.extend([spare_page * page_size + i % page_size for i in range(missing)])
    wanted.extend([0] * (layout.logit_rows - len(wanted)))
    buffer = layout.buffer
    buffer.write(memory, "token_ids_T", ids)
    buffer.write(memory, "positions_T", positions)
    buffer.write(memory, "slots_T", slots)
    buffer.write(memory, "logit_rows_R", wanted)
    if layout.lora_tokens:
        buffer.write(memory, "lora_rows", lora)
    if layout.lora_tokens != 0:
        flags = array("i", bytes(4 * layout.ragged.tokens))
        for token in lora:
            flags[token] = 1
        buffer.write(memory, "lora_T", flags)
    write_rows(rows, page_size, layout.ragged, buffer, memory)
    return Packed(tuple(order), tuple(rows), num_positions, len(lora))


def pack(chunks: Sequence[Chunk], page_tables: Sequence[Sequence[int]], page_size: int, device: torch.device) -> Batch:
    """Returns one Batch of all `chunks`, brought to the device in one copy that the host does not wait for.

    Args:
        chunks: at least one, none empty.
        page_tables: pages cover position + length of each chunk.
        page_size: tokens per page.
        device: where the tensors go.
    """
    layout = exact_layout(chunks, page_size)
    host = host_buffer(layout.num_bytes, device)
    packed = pack_into(layout, host, chunks, page_tables, 0)
    return layout.batch(host.to(device, non_blocking=True), packed)
