"""The configurations of confidence commit: one for each width of a block."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
from trimode.kernels.confidence_commit import confidence_commit
from trimode.kernels.confidence_commit.cuda import MAX_BLOCK
from trimode.kernels.resources.cases import Case, meta


def cases() -> Iterator[Case]:
    """Yields the calls to compile. Confidences are float32 for every model."""
    width = 1
    while width <= MAX_BLOCK:
        tensors = (
            meta(4, width, dtype=torch.float32),
            meta(4, width, dtype=torch.bool),
            meta(4, dtype=torch.float32),
            meta(4, dtype=torch.int64),
        )
        yield Case(op="confidence_commit", label=f"block {width}", call=functools.partial(confidence_commit, *tensors))
        width *= 2
