"""The configurations of the low-rank product: the ranks of the released adapters and others."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
from trimode.kernels.low_rank import add_low_rank
from trimode.kernels.resources.cases import Case, meta, sizes

RANKS = (16, 32, 48, 64, 128, 256)


def cases() -> Iterator[Case]:
    """Yields the calls to compile."""
    on = meta(4, dtype=torch.int32)
    for label, model, dtype in sizes():
        inputs = model.num_heads * model.head_dim
        for rank in RANKS:
            y, x = meta(4, model.hidden, dtype=dtype), meta(4, inputs, dtype=dtype)
            a, b = meta(rank, inputs, dtype=dtype), meta(model.hidden, rank, dtype=dtype)
            yield Case(
                op="low_rank",
                label=f"{label} rank {rank}",
                call=functools.partial(add_low_rank, y, x, a, b, 0.5, on),
                needs_mma=dtype == torch.bfloat16,
            )
