"""Describes a ragged forward to the attention operator: built once per step, read by every layer.

N = rows, T = tokens (queries) of all rows, P = pages of the longest row.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar, cast

import torch

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
    """The same on the host, for implementations that group rows."""
    min_queries: int = 1
    """Not more than the fewest queries of a row that has any."""
    _derived: dict[object, object] = field(default_factory=dict, repr=False)

    def derive(self, make: Callable[..., T], *args: object) -> T:
        """Returns `make(self, *args)`, computed at the first call: what an implementation needs once per step."""
        key = (make, *args)
        if key not in self._derived:
            self._derived[key] = make(self, *args)
        return cast(T, self._derived[key])


def describe_rows(rows: Sequence[Row], page_size: int, device: torch.device) -> Ragged:
    """Returns the description of a forward.

    Args:
        rows: in the order of their queries in the flat batch.
        page_size: tokens per page.
        device: where the tensors go; the copies do not wait for it.

    Raises:
        ValueError: a row whose keys exceed its pages, a last key outside of the row, or mask words that do not fit.
    """
    for number, row in enumerate(rows):
        _check(number, row, page_size)
    width = max((-(-row.num_keys // page_size) for row in rows), default=0)
    table = array("i", bytes(4 * width * len(rows)))
    masked = any(row.mask_words is not None for row in rows)
    starts, last_keys, words = array("i", [0]), array("i"), array("q")
    for number, row in enumerate(rows):
        pages = array("i", row.pages[: -(-row.num_keys // page_size)])
        table[number * width : number * width + len(pages)] = pages
        last_keys.extend(row.last_keys)
        starts.append(len(last_keys))
        if masked:
            words.extend([_ALL_BITS] * len(row.last_keys) if row.mask_words is None else row.mask_words)

    def tensor(data: array[int]) -> torch.Tensor:
        dtype = torch.int32 if data.typecode == "i" else torch.int64
        on_host = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
        return on_host.to(device, non_blocking=True)

    return Ragged(
        page_table_NP=tensor(table).view(len(rows), width),
        query_start_N1=tensor(starts),
        num_keys_N=tensor(array("i", [row.num_keys for row in rows])),
        last_key_T=tensor(last_keys),
        mask_word_T=tensor(words) if masked else None,
        page_size=page_size,
        num_tokens=len(last_keys),
        max_queries=max((len(row.last_keys) for row in rows), default=0),
        max_keys=max((row.num_keys for row in rows), default=0),
        rows=tuple(rows),
        min_queries=min((len(row.last_keys) for row in rows if row.last_keys), default=1),
    )


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
