"""Packs the chunks of many requests, of all modes, into the flat tensors of one ragged forward.

All of them stand in one buffer: a step copies it to the device once, and a captured graph reads it at one address.
"""

from __future__ import annotations

import dataclasses
import functools
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from types import MappingProxyType

import torch
from trimode.kernels.packing import Array, BufferLayout, Part, host_buffer, memory_of, parts_of
from trimode.kernels.paged_attention import Ragged, RaggedSizes, Row, view_rows, write_rows
from trimode.workers.decode.chunk import Chunk, deferred_row

NOTHING: Mapping[str, Array] = MappingProxyType({})


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
    source_T: torch.Tensor | None
    """int64: where the token id is the sample of a wanted row of the step before, that row; -1 where it is known. None
    = it is known everywhere."""
    more: dict[str, torch.Tensor]
    """What travelled with it."""
    order: tuple[int, ...]
    """Chunk indices in the order in which they stand in the batch; empty in a captured graph."""

    def wanted_tokens(self) -> torch.Tensor:
        """The token ids at the wanted rows, int64."""
        return self.token_ids_T if self.logit_rows_R is None else self.token_ids_T[self.logit_rows_R]

    def filled(self, sampled_R: torch.Tensor) -> Batch:
        """Returns the batch with the tokens that the step before has sampled, int64, one per wanted row of it."""
        if self.source_T is None:
            return self
        sampled = sampled_R[self.source_T.clamp_min(0)]
        return dataclasses.replace(self, token_ids_T=torch.where(self.source_T < 0, self.token_ids_T, sampled))


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


@dataclass(frozen=True)
class Layout:
    """A buffer with the tensors of a batch, for chunks of given sizes or for all chunks up to these sizes.

    What is missing to the sizes is padding: tokens that belong to no row and write their K and V into a spare page,
    rows without queries and keys, and logit rows of token 0.
    """

    tokens: int
    """Of all chunks."""
    rows: int
    """Number of chunks."""
    pages: int
    """Of the longest chunk's keys."""
    logit_rows: int
    """Wanted rows of all chunks."""
    _: KW_ONLY
    page_size: int
    """Tokens per page."""
    max_queries: int | None = None
    """Tokens of the longest chunk; None = `tokens`."""
    min_queries: int = 1
    """Tokens of the shortest chunk."""
    lora_tokens: int | None = None
    """Tokens with the adapter on, exactly; None = any number of them, so that `lora_T` alone says which."""
    deferred: bool = True
    """True if tokens may be samples of the step before, see `Batch.source_T`."""
    more: tuple[Part, ...] = ()
    """Further arrays that travel in the same buffer."""
    ragged: RaggedSizes = field(init=False)
    buffer: BufferLayout = field(init=False)

    def __post_init__(self) -> None:
        ragged = RaggedSizes(
            tokens=self.tokens,
            rows=self.rows,
            pages=self.pages,
            max_queries=self.tokens if self.max_queries is None else self.max_queries,
            max_keys=self.pages * self.page_size,
            min_queries=self.min_queries,
        )
        parts = [Part(name, torch.int64, (self.tokens,)) for name in ("token_ids_T", "positions_T", "slots_T")]
        parts.append(Part("logit_rows_R", torch.int64, (self.logit_rows,)))
        if self.deferred:
            parts.append(Part("source_T", torch.int64, (self.tokens,)))
        if self.lora_tokens:
            parts.append(Part("lora_rows", torch.int64, (self.lora_tokens,)))
        if self.lora_tokens != 0:
            parts.append(Part("lora_T", torch.int32, (self.tokens,)))
        parts += [*self.more, *ragged.parts()]  # ends with the page table
        object.__setattr__(self, "ragged", ragged)
        object.__setattr__(self, "buffer", BufferLayout(parts))

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
        views = self.buffer.views(buffer)
        max_keys = self.ragged.max_keys if packed is None else packed.num_positions
        rows = () if packed is None else packed.rows
        return Batch(
            token_ids_T=views["token_ids_T"],
            positions_T=views["positions_T"],
            slots_T=views["slots_T"],
            num_positions=max_keys,
            ragged=view_rows(views, self.page_size, self.ragged, max_keys, rows),
            lora_rows=views.get("lora_rows"),
            lora_T=views.get("lora_T"),
            lora_all=packed is not None and packed.num_lora == self.tokens,
            logit_rows_R=views["logit_rows_R"],
            source_T=views.get("source_T"),
            more={part.name: views[part.name] for part in self.more},
            order=() if packed is None else packed.order,
        )


_layout = functools.lru_cache(maxsize=64)(Layout)
"""Steps of the same sizes follow each other."""


def exact_layout(
    chunks: Sequence[Chunk], page_size: int, *, deferred: bool = False, more: Sequence[Part] = ()
) -> Layout:
    """Returns the layout of these chunks without padding."""
    lengths = [len(chunk.token_ids) for chunk in chunks]
    return _layout(
        sum(lengths),
        len(chunks),
        max([_num_pages(chunk, page_size) for chunk in chunks]),
        sum([len(chunk.rows) for chunk in chunks]),
        page_size=page_size,
        max_queries=max(lengths),
        lora_tokens=sum([length for chunk, length in zip(chunks, lengths, strict=True) if chunk.lora]),
        deferred=deferred,
        more=tuple(more),
    )


def _num_pages(chunk: Chunk, page_size: int) -> int:
    """Pages of the keys."""
    return -(-(chunk.position + len(chunk.token_ids)) // page_size)


def batch_order(chunks: Sequence[Chunk], page_size: int) -> list[int]:
    """Returns the chunk indices in the order in which a batch holds them: chunks of like size stand side by side.

    Like size is the same number of queries, and the same pages of keys as a power of two.
    """

    sizes = [(len(chunk.token_ids), (_num_pages(chunk, page_size) - 1).bit_length()) for chunk in chunks]
    return sorted(range(len(chunks)), key=sizes.__getitem__)


def pack_into(
    layout: Layout,
    host: torch.Tensor,
    chunks: Sequence[Chunk],
    page_tables: Sequence[Sequence[int]],
    spare_page: int,
    *,
    sources: Sequence[int] = (),
    more: Mapping[str, Array] = NOTHING,
) -> Packed:
    """Writes chunks into a buffer on the host, in the order of `batch_order`.

    Args:
        layout: of the buffer.
        host: the buffer, uint8.
        chunks: at least one, none empty.
        page_tables: pages cover position + length of each chunk.
        spare_page: page that padding tokens write to.
        sources: per chunk, the wanted row of the step before that the rows of its request begin with there. Empty if
            all token ids are known.
        more: the further arrays of the layout. Zeros stand for what is missing to it.

    Raises:
        ValueError: the chunks exceed the layout.
    """
    page_size, memory, buffer = layout.page_size, memory_of(host), layout.buffer
    order = batch_order(chunks, page_size)
    ids, positions, slots, lora, wanted, source = (list[int]() for _ in range(6))  # they grow faster than arrays do
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
        if sources:
            first = sources[i]
            source += [first + deferred_row(token) if token < 0 else -1 for token in chunk.token_ids]
    packed = Packed(tuple(order), tuple(rows), max(positions) + 1, len(lora))
    missing = layout.tokens - len(ids)
    slots += [spare_page * page_size + i % page_size for i in range(missing)]
    numbers = {"token_ids_T": ids, "positions_T": positions, "slots_T": slots, "logit_rows_R": wanted}
    if layout.deferred:
        numbers["source_T"] = source
    if layout.lora_tokens:
        numbers["lora_rows"] = lora
    columns = {**{name: array("q", data) for name, data in numbers.items()}, **more}
    if layout.lora_tokens != 0:
        columns["lora_T"] = array("i", bytes(4 * layout.tokens))
        for token in lora:
            columns["lora_T"][token] = 1
    for name, data in columns.items():
        buffer.write(memory, name, data, fill=-1 if name == "source_T" else 0)
    write_rows(rows, page_size, layout.ragged, buffer, memory)
    return packed


def pack(
    chunks: Sequence[Chunk],
    page_tables: Sequence[Sequence[int]],
    page_size: int,
    device: torch.device,
    *,
    sources: Sequence[int] = (),
    more: Mapping[str, Array] = NOTHING,
) -> Batch:
    """Returns one Batch of all `chunks`, brought to the device in one copy that the host does not wait for.

    Args:
        chunks: at least one, none empty.
        page_tables: pages cover position + length of each chunk.
        page_size: tokens per page.
        device: where the tensors go.
        sources: see `pack_into`.
        more: further arrays for the same copy.
    """
    layout = exact_layout(chunks, page_size, deferred=bool(sources), more=parts_of(more))
    host = host_buffer(layout.num_bytes, device)
    packed = pack_into(layout, host, chunks, page_tables, 0, sources=sources, more=more)
    return layout.batch(host.to(device, non_blocking=True), packed)
