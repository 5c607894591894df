"""The paged KV cache: tensors sized from a memory budget, and the pages of each request.

Whole requests are admitted (prompt, output and scratch reserved at once), so a running request can never run out. Full
pages of a prompt are shared between requests with the same prefix. Knows nothing of modes or of what the tokens mean.
"""

from __future__ import annotations

import hashlib
import heapq
from array import array
from collections import OrderedDict
from collections.abc import Iterator, Sequence

import torch
from trimode.workers.checkpoint import ModelConfig

PAGE_SIZE = 16
"""Tokens per page."""


def _page_keys(prompt_ids: Sequence[int], count: int) -> Iterator[bytes]:
    """Identity of each of the first `count` full pages: a digest of the whole prompt up to the page's end."""
    key = b""
    for start in range(0, count * PAGE_SIZE, PAGE_SIZE):
        tokens = array("q", prompt_ids[start : start + PAGE_SIZE]).tobytes()
        key = hashlib.blake2b(key + tokens, digest_size=16).digest()
        yield key


class PageAllocator:
    """Hands out page numbers; keeps finished prompts' full pages for reuse until the space is needed."""

    def __init__(self, num_pages: int) -> None:
        self.num_pages = num_pages
        self._free = list(range(num_pages))
        self._users: dict[int, int] = {}
        self._page_of: dict[bytes, int] = {}
        self._key_of: dict[int, bytes] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()
        """Shareable pages nobody uses now, least recently used first."""

    @property
    def num_free(self) -> int:
        """Pages that an allocation can get now."""
        return len(self._free) + len(self._idle)

    @property
    def num_shared(self) -> int:
        """Pages held for reuse by later prompts."""
        return len(self._page_of)

    def match(self, prompt_ids: Sequence[int]) -> list[int]:
        """Pages with the KV of the prompt's longest cached prefix, now in use by the caller; never the whole prompt,
        whose last token must run to give a logit."""
        pages: list[int] = []
        for key in _page_keys(prompt_ids, (len(prompt_ids) - 1) // PAGE_SIZE):
            page = self._page_of.get(key)
            if page is None:
                break
            pages.append(page)
            self._users[page] = self._users.get(page, 0) + 1
            self._idle.pop(page, None)
        return pages

    def allocate(self, count: int) -> list[int] | None:
        """`count` pages, ascending and in one run where possible; None when there are too few."""
        if count > self.num_free:
            return None
        while len(self._free) < count:
            page, _ = self._idle.popitem(last=False)
            self._recycle(page)
        pages = [heapq.heappop(self._free) for _ in range(count)]
        for page in pages:
            self._users[page] = 1
        return pages

    def share(self, pages: Sequence[int], prompt_ids: Sequence[int]) -> None:
        """Offers the full pages of a prefilled prompt to later requests. A prefix that is already offered stays."""
        for page, key in zip(pages, _page_keys(prompt_ids, len(prompt_ids) // PAGE_SIZE), strict=False):
            if key not in self._page_of and page not in self._key_of:
                self._page_of[key] = page
                self._key_of[page] = key

    def release(self, pages: Sequence[int], *, forget: bool = False) -> None:
        """Gives pages back; those offered for sharing stay until evicted. `forget`: withdraw the offers too."""
        for page in pages:
            self._users[page] -= 1
            if self._users[page]:
                continue
            del self._users[page]
            if page in self._key_of and not forget:
                self._idle[page] = None
            else:
                self._recycle(page)

    def _recycle(self, page: int) -> None:
        key = self._key_of.pop(page, None)
        if key is not None:
            del self._page_of[key]
        heapq.heappush(self._free, page)


class KVCache:
    """K and V of every layer in one tensor, `[pages, PAGE_SIZE, 2 * kv_heads, head_dim]`: K heads, then V heads."""

    def __init__(self, config: ModelConfig, num_pages: int, dtype: torch.dtype, device: torch.device) -> None:
        shape = (num_pages, PAGE_SIZE, 2 * config.num_kv_heads, config.head_dim)
        # Zeros, not empty: masked keys still meet a weight of 0, and 0 * NaN is NaN.
        self._layers = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.num_layers)]
        self._slots = [layer.flatten(0, 1) for layer in self._layers]
        self._gathered = self._layers[0].new_empty((0, *shape[1:]))
        """Scratch of `gather`, one for all layers: fresh memory would cost a page fault each 4 KB in every layer."""

    def layer(self, number: int) -> torch.Tensor:
        """A layer's pages, `[pages, PAGE_SIZE, 2 * kv_heads, head_dim]`."""
        return self._layers[number]

    def slots(self, number: int) -> torch.Tensor:
        """The same by slots, `[pages * PAGE_SIZE, 2 * kv_heads, head_dim]`: slot = page * PAGE_SIZE + offset."""
        return self._slots[number]

    def run(self, layer: int, first_page: int, num_pages: int) -> torch.Tensor:
        """A view of consecutive pages: `[1, tokens, 2 * kv_heads, head_dim]`."""
        return self._layers[layer][first_page : first_page + num_pages].flatten(0, 1).unsqueeze(0)

    def gather(self, layer: int, pages_NP: torch.Tensor) -> torch.Tensor:
        """The pages of N rows, `[N, P * PAGE_SIZE, 2 * kv_heads, head_dim]`; valid until the next call."""
        count = pages_NP.numel()
        if self._gathered.shape[0] < count:
            self._gathered = self._gathered.new_empty((count, *self._gathered.shape[1:]))
        found = torch.index_select(self._layers[layer], 0, pages_NP.flatten(), out=self._gathered[:count])
        return found.view(pages_NP.shape[0], -1, *found.shape[2:])

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
