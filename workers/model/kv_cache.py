"""The paged KV cache: tensors sized from a memory budget, and the pages of each request.

Whole requests are admitted (prompt, output and scratch reserved at once), so a running request can never run out. Full
pages of a prompt are shared between requests with the same prefix. Knows nothing of modes or of what the tokens mean.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from trimode.workers.model.checkpoint import ModelConfig

PAGE_SIZE = 16
"""Tokens per page."""


class KVCache:
    """K and V of every layer in one tensor, `[pages, PAGE_SIZE, 2 * kv_heads, head_dim]`: K heads, then V heads."""

    def __init__(self, config: ModelConfig, num_pages: int, dtype: torch.dtype, device: torch.device) -> None:
        shape = (num_pages, PAGE_SIZE, 2 * config.num_kv_heads, config.head_dim)
        # Zeros, not empty: masked keys still meet a weight of 0, and 0 * NaN is NaN.
        self._layers = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.num_layers)]
        self._slots = [layer.flatten(0, 1) for layer in self._layers]

    def layer(self, number: int) -> torch.Tensor:
        """A layer's pages, `[pages, PAGE_SIZE, 2 * kv_heads, head_dim]`."""
        return self._layers[number]

    def slots(self, number: int) -> torch.Tensor:
        """The same by slots, `[pages * PAGE_SIZE, 2 * kv_heads, head_dim]`: slot = page * PAGE_SIZE + offset."""
        return self._slots[number]

    def clear(self, pages: Sequence[int]) -> None:
        """Overwrites pages with zeros, after a request that wrote non-finite values."""
        index = torch.tensor(list(pages), device=self._layers[0].device)
        for layer in self._layers:
            layer.index_fill_(0, index, 0)


def pages_for(num_tokens: int) -> int:
    """Pages that hold `num_tokens`."""
    return -(-num_tokens // PAGE_SIZE)


def default_num_pages(config: ModelConfig, dtype: torch.dtype, budget_bytes: int) -> int:
    """Pages that fit the budget."""
    return budget_bytes // (config.kv_bytes_per_token * dtype.itemsize * PAGE_SIZE)
