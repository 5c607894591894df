"""The configurations of prefix verification: one for each width of a block."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
from trimode.kernels.prefix_verify import prefix_verify
from trimode.kernels.prefix_verify.cuda import MAX_BLOCK
from trimode.kernels.resources.cases import Case, meta


def cases() -> Iterator[Case]:
    """Yields the calls to compile."""
    width = 1
    while width <= MAX_BLOCK:
        tokens, length = meta(4, width, dtype=torch.int64), meta(4, dtype=torch.int64)
        call = functools.partial(prefix_verify, tokens, tokens, length)
        yield Case(op="prefix_verify", label=f"block {width}", call=call)
        width *= 2
