"""Describes a ragged forward to the attention operator: built once per step, read by every layer.

N = rows, T = tokens (queries) of all rows, P = pages of the longest row.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar, cast

import torch
from trimode.kernels.packing import BufferLayout, Part, host_buffer, memory_of

MAX_MASKED_QUERIES = 64
"""Most queries of a row that has mask words: a word has one bit for each of them."""
_ALL_BITS = -1
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One request's part of a forward, on the host."""

    pages: Sequence[int]
    """The pages of its keys, in order. Pages beyond `num_keys` are ignored."""
    num_keys: int
    """Keys in the cache when attention runs, those of this forward included."""
    last_keys: Sequence[int]
    """Per query: the index of the last key it sees. Its own position if causal, `num_keys - 1` if it sees all."""
    mask_words: Sequence[int] | None = None
    """Per query, a signed 64-bit word over the row's own tokens (the last `len(last_keys)` keys): the query sees own
    token b only if bit b is set. Each query must see at least one key. None = `last_keys` alone decides."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ragged:
    """The queries of many rows, one row after the other, and the keys that each query sees. Made by `describe_rows`."""

    page_table_NP: torch.Tensor
    """int32, each row padded with page 0."""
    query_start_N1: torch.Tensor
    """int32 `[N + 1]`: row n has the queries `query_start[n]` to `query_start[n + 1] - 1`, possibly none."""
    num_keys_N: torch.Tensor
    """int32."""
    last_key_T: torch.Tensor
    """int32: query t sees keys 0 to `last_key[t]` of its row."""
    mask_word_T: torch.Tensor | None
    """int64, see `Row.mask_words`; None if no row has any. Rows without words have all bits set."""
    page_size: int
    num_tokens: int
    """T. This and the two below are known on the host, so that no launch waits for the device."""
    max_queries: int
    """The most queries of a row."""
    max_keys: int
    """The most keys of a row."""
    rows: tuple[Row, ...]
    """The same on the host, for implementations that group rows; empty in a captured graph."""
    min_queries: int = 1
    """Not more than the fewest queries of a row that has any."""
    _derived: dict[object, object] = field(default_factory=dict, repr=False)

    def derive(self, make: Callable[..., T], *args: object) -> T:
        """Returns `make(self, *args)`, computed at the first call: what an implementation needs once per step."""
        key = (make, *args)
        if key not in self._derived:
            self._derived[key] = make(self, *args)
        return cast(T, self._derived[key])


@dataclass(frozen=True, slots=True, kw_only=True)
class RaggedSizes:
    """The sizes of a description: those of given rows, or upper bounds that many forwards share."""

    tokens: int
    rows: int
    pages: int
    """Of the longest row."""
    max_queries: int
    max_keys: int
    min_queries: int = 1
    """Of the rows that have any."""
    masked: bool = False
    """True if there are mask words."""

    def parts(self) -> list[Part]:
        """Returns the arrays that `write_rows` writes."""
        parts = [
            Part("query_start_N1", torch.int32, (self.rows + 1,)),
            Part("num_keys_N", torch.int32, (self.rows,)),
            Part("last_key_T", torch.int32, (self.tokens,)),
        ]
        if self.masked:
            parts.append(Part("mask_word_T", torch.int64, (self.tokens,)))
        # The last of its element size: where the others stand does not depend on the number of pages.
        return [*parts, Part("page_table_NP", torch.int32, (self.rows, self.pages))]


def sizes_of(rows: Sequence[Row], page_size: int) -> RaggedSizes:
    """Returns the sizes of these rows."""
    return RaggedSizes(
        tokens=sum(len(row.last_keys) for row in rows),
        rows=len(rows),
        pages=max((-(-row.num_keys // page_size) for row in rows), default=0),
        max_queries=max((len(row.last_keys) for row in rows), default=0),
        max_keys=max((row.num_keys for row in rows), default=0),
        min_queries=min((len(row.last_keys) for row in rows if row.last_keys), default=1),
        masked=any(row.mask_words is not None for row in rows),
    )


def write_rows(
    rows: Sequence[Row], page_size: int, sizes: RaggedSizes, layout: BufferLayout, memory: memoryview
) -> None:
    """Writes the rows into a buffer that has the parts of `sizes`.

    Rows and tokens that are missing are padding: a padding row has no queries and no keys, a padding token belongs to
    no row.

    Raises:
        ValueError: a row whose keys exceed its pages, a last key outside of the row, mask words that do not fit, or
            rows that exceed the sizes.
    """
    for number, row in enumerate(rows):
        _check(number, row, page_size)
    width = sizes.pages
    starts = [0]
    table, num_keys, last_keys, words = (list[int]() for _ in range(4))
    for number, row in enumerate(rows):
        pages = row.pages[: -(-row.num_keys // page_size)]
        if len(pages) > width:
            raise ValueError(f"paged_attention: row {number}: got {len(pages)} pages, expected at most {width}")
        table += pages
        table += [0] * (width - len(pages))
        num_keys.append(row.num_keys)
        last_keys += row.last_keys
        starts.append(len(last_keys))
        if sizes.masked:
            words += [_ALL_BITS] * len(row.last_keys) if row.mask_words is None else row.mask_words
    layout.write(memory, "page_table_NP", array("i", table), fill=0)
    layout.write(memory, "query_start_N1", array("i", starts), fill=starts[-1])
    layout.write(memory, "num_keys_N", array("i", num_keys), fill=0)
    layout.write(memory, "last_key_T", array("i", last_keys), fill=0)
    if sizes.masked:
        layout.write(memory, "mask_word_T", array("q", words), fill=_ALL_BITS)


def view_rows(
    views: Mapping[str, torch.Tensor], page_size: int, sizes: RaggedSizes, max_keys: int, rows: Sequence[Row] = ()
) -> Ragged:
    """Returns the description that stands in a buffer.

    Args:
        views: of the buffer, from its layout.
        page_size: tokens per page.
        sizes: what the buffer was laid out for.
        max_keys: at least the keys of every row.
        rows: the same on the host; none if the buffer is written anew for every forward.
    """
    return Ragged(
        page_table_NP=views["page_table_NP"],
        query_start_N1=views["query_start_N1"],
        num_keys_N=views["num_keys_N"],
        last_key_T=views["last_key_T"],
        mask_word_T=views["mask_word_T"] if sizes.masked else None,
        page_size=page_size,
        num_tokens=sizes.tokens,
        max_queries=sizes.max_queries,
        max_keys=max_keys,
        rows=tuple(rows),
        min_queries=sizes.min_queries,
    )


def describe_rows(rows: Sequence[Row], page_size: int, device: torch.device) -> Ragged:
    """Returns the description of a forward, brought to the device in one copy that the host does not wait for.

    Args:
        rows: in the order of their queries in the flat batch.
        page_size: tokens per page.
        device: where the tensors go.

    Raises:
        ValueError: a row whose keys exceed its pages, a last key outside of the row, or mask words that do not fit.
    """
    sizes = sizes_of(rows, page_size)
    layout = BufferLayout(sizes.parts())
    host = host_buffer(layout.num_bytes, device)
    write_rows(rows, page_size, sizes, layout, memory_of(host))
    return view_rows(layout.views(host.to(device, non_blocking=True)), page_size, sizes, sizes.max_keys, rows)


def _check(number: int, row: Row, page_size: int) -> None:
    if not 0 <= row.num_keys <= len(row.pages) * page_size:
        raise ValueError(
            f"paged_attention: row {number}: got {row.num_keys} keys, "
            f"expected 0 to {len(row.pages) * page_size} ({len(row.pages)} pages of {page_size})"
        )
    if row.last_keys and not 0 <= min(row.last_keys) <= max(row.last_keys) < row.num_keys:
        raise ValueError(
            f"paged_attention: row {number}: got last keys {min(row.last_keys)} to {max(row.last_keys)}, "
            f"expected 0 to {row.num_keys - 1}"
        )
    if row.mask_words is not None and not len(row.mask_words) == len(row.last_keys) <= MAX_MASKED_QUERIES:
        raise ValueError(
            f"paged_attention: row {number}: got {len(row.mask_words)} mask words for {len(row.last_keys)} queries, "
            f"expected one per query and at most {MAX_MASKED_QUERIES}"
        )
