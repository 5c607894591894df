"""Attention whose rows only the device knows equals that whose rows the host knows, whatever the padding holds."""

from __future__ import annotations

import dataclasses
import random

import pytest
import torch
from trimode.kernels.paged_attention import Ragged, Row, describe_rows, paged_attention, reference

PAGE = 4
WIDTH = 5
"""Pages of the widest table."""


def rows_of(seed: int, *, masked: bool) -> list[Row]:
    """Rows of a few queries, causal or full, with pages that no other row has."""
    rng = random.Random(seed)
    free = list(range(40))
    rng.shuffle(free)
    rows = []
    for _ in range(rng.randint(1, 5)):
        queries = rng.choice([1, 1, 3, 8])
        keys = queries + rng.randint(0, WIDTH * PAGE - queries)
        pages = [free.pop() for _ in range(-(-keys // PAGE))]
        own = range(keys - queries, keys)
        words = [(1 << (n + 1)) - 1 & rng.getrandbits(8) | 1 << n for n in range(queries)] if masked else None
        last = list(own) if rng.random() < 0.5 else [keys - 1] * queries
        rows.append(Row(pages=pages, num_keys=keys, last_keys=last, mask_words=words))
    return rows


def padded(ragged: Ragged, tokens: int, rows: int) -> Ragged:
    """The same rows as a captured graph reads them: wider tables, missing rows and tokens, nothing on the host."""
    num_rows, num_tokens = len(ragged.rows), ragged.num_tokens
    table = torch.full((num_rows + rows, WIDTH), 41, dtype=torch.int32)  # page 41 is NaN
    table[:num_rows, : ragged.page_table_NP.shape[1]] = ragged.page_table_NP
    words = ragged.mask_word_T
    return dataclasses.replace(
        ragged,
        page_table_NP=table,
        query_start_N1=torch.cat([ragged.query_start_N1, ragged.query_start_N1[-1:].expand(rows)]),
        num_keys_N=torch.cat([ragged.num_keys_N, torch.zeros(rows, dtype=torch.int32)]),
        last_key_T=torch.cat([ragged.last_key_T, torch.zeros(tokens, dtype=torch.int32)]),
        mask_word_T=None if words is None else torch.cat([words, torch.full((tokens,), -1)]),
        num_tokens=num_tokens + tokens,
        max_keys=WIDTH * PAGE,
        rows=(),
        _derived={},
    )


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_it_equals_the_reference(seed: int, masked: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = rows_of(seed, masked=masked)
    ragged = describe_rows(rows, PAGE, torch.device("cpu"))
    cache = torch.randn(42, PAGE, 4, 16, generator=generator)
    queries = torch.randn(ragged.num_tokens, 6, 16, generator=generator)
    expected = reference.paged_attention(queries, cache, ragged, 0.25)
    for row in rows:  # nobody may see the slots behind the last key
        for slot in range(row.num_keys, len(row.pages) * PAGE):
            cache[row.pages[slot // PAGE], slot % PAGE] = torch.nan
    cache[40:] = torch.nan
    q_padded = torch.cat([queries, torch.full((3, 6, 16), torch.nan)])
    got = paged_attention(q_padded, cache, padded(ragged, 3, 2), 0.25)
    torch.testing.assert_close(got[: ragged.num_tokens], expected, atol=1e-5, rtol=1e-5)
    assert got[ragged.num_tokens :].isnan().all()
    without_padding = paged_attention(queries, cache, padded(ragged, 0, 0), 0.25)
    torch.testing.assert_close(without_padding, expected, atol=1e-5, rtol=1e-5)
