"""Attention's configurations: each class of rows, alone and mixed, in both forms, with and without mask words."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
from trimode.kernels.describe import ModelSizes
from trimode.kernels.paged_attention import Ragged, paged_attention
from trimode.kernels.resources.cases import Case, meta, sizes

STREAMS = (1, 8, 32, 128)
CONTEXT = 32768
WORKLOADS = {"decode": (1, 1), "block": (32, 32), "prefill": (512, 512), "mixed": (1, 512)}
"""The fewest and the most queries of a row."""


def _ragged(streams: int, queries: tuple[int, int], page_size: int, *, words: bool) -> Ragged:
    fewest, most = queries
    num_tokens = streams * fewest + (most if fewest < most else 0)
    num_rows = streams + (fewest < most)

    def integers(*shape: int) -> torch.Tensor:
        return meta(*shape, dtype=torch.int32)

    return Ragged(
        page_table_NP=integers(num_rows, CONTEXT // page_size),
        query_start_N1=integers(num_rows + 1),
        num_keys_N=integers(num_rows),
        last_key_T=integers(num_tokens),
        mask_word_T=meta(num_tokens, dtype=torch.int64) if words else None,
        page_size=page_size,
        num_tokens=num_tokens,
        max_queries=most,
        max_keys=CONTEXT,
        rows=(),
        min_queries=fewest,
    )


def _case(label: str, model: ModelSizes, dtype: torch.dtype, ragged: Ragged) -> Case:
    q = meta(ragged.num_tokens, model.num_heads + 2 * model.num_kv_heads, model.head_dim, dtype=dtype)
    cache = meta(64, model.page_size, 2 * model.num_kv_heads, model.head_dim, dtype=dtype)
    call = functools.partial(paged_attention, q[:, : model.num_heads], cache, ragged, model.head_dim**-0.5)
    # Products of float32 numbers are exact, and there are no matrix instructions for those.
    needs_mma = dtype != torch.float32
    return Case(op="paged_attention", label=label, call=call, needs_mma=needs_mma, without_mma=("_merge_splits",))


def cases() -> Iterator[Case]:
    """Yields the calls to compile."""
    alike: dict[tuple[int, int, int, int, torch.dtype], tuple[list[str], ModelSizes]] = {}
    for label, model, dtype in sizes():
        key = (model.num_heads, model.num_kv_heads, model.head_dim, model.page_size, dtype)
        alike.setdefault(key, ([], model))[0].append(label.split()[0])
    for (_, _, _, _, dtype), (names, model) in alike.items():
        models = f"{'/'.join(names)} {str(dtype).removeprefix('torch.')}"
        for workload, queries in WORKLOADS.items():
            for streams in STREAMS:
                for words in (False, True):
                    name = f"{models} {workload} x {streams}{' words' if words else ''}"
                    yield _case(name, model, dtype, _ragged(streams, queries, model.page_size, words=words))
