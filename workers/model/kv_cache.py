"""The tensors of the paged KV cache, sized from a memory budget. The engine decides which request owns which page."""

from __future__ import annotations

import contextlib
import math
import mmap
from collections.abc import Sequence

import torch
from trimode.core.errors import WorkerError
from trimode.workers.model.checkpoint import ModelConfig

PAGE_SIZE = 16
"""Tokens per page."""


class KVCache:
    """One tensor per layer, `[pages, PAGE_SIZE, 2 * kv_heads, head_dim]`: K heads, then V heads."""

    def __init__(self, config: ModelConfig, num_pages: int, dtype: torch.dtype, device: torch.device) -> None:
        """Allocates the pages.

        Args:
            config: of the model.
            num_pages: pages that requests may get. There is one more, see `spare_page`.
            dtype: of keys and values.
            device: where they are.

        Raises:
            WorkerError: the device has no room.
        """
        self.spare_page = num_pages
        """Page of no request, behind all others. Padding tokens of a captured graph write there, so it may hold
        anything."""
        shape = (num_pages + 1, PAGE_SIZE, 2 * config.num_kv_heads, config.head_dim)
        # Zeros, not empty: masked keys still meet a weight of 0, and 0 * NaN is NaN.
        try:
            self._layers = [_zeros(shape, dtype, device) for _ in range(config.num_layers)]
        except (torch.OutOfMemoryError, OSError) as error:
            num_bytes = num_pages * PAGE_SIZE * config.kv_bytes_per_token * dtype.itemsize
            raise WorkerError(
                f"{device} is out of memory: no room for a KV cache of {num_pages} pages of {PAGE_SIZE} tokens, "
                f"{num_bytes / 2**30:.1f} GiB; lower kv_cache_gb: {error}"
            ) from None
        self._slots = [layer.flatten(0, 1) for layer in self._layers]

    def layer(self, number: int) -> torch.Tensor:
        """Returns the pages of a layer, `[pages, PAGE_SIZE, 2 * kv_heads, head_dim]`."""
        return self._layers[number]

    def slots(self, number: int) -> torch.Tensor:
        """Returns the same memory by slots, `[slots, 2 * kv_heads, head_dim]`: slot = page * PAGE_SIZE + offset."""
        return self._slots[number]

    def clear(self, pages: Sequence[int]) -> None:
        """Overwrites pages with zeros, after a request that wrote non-finite values."""
        index = torch.tensor(list(pages), device=self._layers[0].device)
        for layer in self._layers:
            layer.index_fill_(0, index, 0)


def _zeros(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Returns zeros. On a CPU they take memory when they are first touched, and no time before.

    Torch would write all of them at once: seconds for a cache of some GiB, most of which a short run never uses.
    """
    if device.type != "cpu":
        return torch.zeros(tuple(shape), dtype=dtype, device=device)
    memory = mmap.mmap(-1, math.prod(shape) * dtype.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a system without huge pages
            memory.madvise(mmap.MADV_HUGEPAGE)  # attention reads pages that are far from each other
    return torch.frombuffer(memory, dtype=dtype).view(*shape)


def pages_for(num_tokens: int) -> int:
    """Returns the number of pages that hold `num_tokens`."""
    return -(-num_tokens // PAGE_SIZE)


def default_num_pages(config: ModelConfig, dtype: torch.dtype, budget_bytes: int) -> int:
    """Returns the number of pages that fit the budget beside the spare one, at least 0."""
    return max(0, budget_bytes // (config.kv_bytes_per_token * dtype.itemsize * PAGE_SIZE) - 1)
