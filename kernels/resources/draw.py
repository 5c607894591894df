"""The configurations of draws and of verification by rejection sampling."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
from trimode.kernels.draw import draw, verify_by_rejection
from trimode.kernels.resources.cases import MODELS, Case, meta

BLOCKS = (1, 8, 16, 32, 64, 128, 256)
"""Lengths of a block."""


def cases() -> Iterator[Case]:
    """Yields the calls to compile. Distributions are float32 for every model."""
    for vocab in sorted({model.vocab for model in MODELS.values()}):
        weights, numbers = meta(4, vocab, dtype=torch.float32), meta(4, dtype=torch.float64)
        yield Case(op="draw", label=f"{vocab} plain", call=functools.partial(draw, weights, numbers))
        for width in BLOCKS:
            tensors = (
                meta(4, width, vocab, dtype=torch.float32),
                meta(4, width - 1, vocab, dtype=torch.float32),
                meta(4, width, dtype=torch.int64),
                meta(4, dtype=torch.int64),
                meta(4, width - 1, dtype=torch.float64),
                meta(4, width, dtype=torch.float64),
            )
            call = functools.partial(verify_by_rejection, *tensors)
            yield Case(op="draw", label=f"{vocab} block {width}", call=call)
