"""Rope's configurations: with and without a query scale."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
from trimode.kernels.resources.cases import Case, meta, sizes
from trimode.kernels.rope import rotate_and_store


def cases() -> Iterator[Case]:
    """Yields the calls to compile. The number of tokens decides the number of programs only."""
    for label, model, dtype in sizes():
        qkv = meta(4, model.num_heads + 2 * model.num_kv_heads, model.head_dim, dtype=dtype)
        table = meta(4, model.head_dim, dtype=dtype)
        cache = meta(64 * model.page_size, 2 * model.num_kv_heads, model.head_dim, dtype=dtype)
        slots, scale = meta(4, dtype=torch.int64), meta(4, dtype=dtype)
        for name, query_scale in ((label, None), (f"{label} scaled", scale)):
            call = functools.partial(rotate_and_store, qkv, table, table, cache, slots, query_scale)
            yield Case(op="rope", label=name, call=call)
