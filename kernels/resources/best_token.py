"""The configurations of the best token and the softmax of logits."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
from trimode.kernels.best_token import best_token
from trimode.kernels.resources.cases import MODELS, Case, meta

DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def cases() -> Iterator[Case]:
    """Yields the calls to compile. Logits have the dtype of the model, or are float32."""
    for vocab in sorted({model.vocab for model in MODELS.values()}):
        for dtype in DTYPES:
            call = functools.partial(best_token, meta(4, vocab, dtype=dtype), suppressed=100)
            yield Case(op="best_token", label=f"{vocab} {str(dtype).removeprefix('torch.')}", call=call)
