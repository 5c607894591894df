"""Which pages of the KV cache belong to which request."""

from __future__ import annotations

import hashlib
import heapq
from array import array
from collections import OrderedDict
from collections.abc import Iterator, Sequence


class PageAllocator:
    """Hands out page numbers. Keeps the full pages of finished prompts for reuse until the space is needed."""

    def __init__(self, num_pages: int, page_size: int) -> None:
        """All pages 0 to num_pages - 1 are free; a page holds `page_size` tokens."""
        self.num_pages = num_pages
        self.page_size = page_size
        self._free = list(range(num_pages))
        self._users: dict[int, int] = {}
        self._page_of: dict[bytes, int] = {}
        self._key_of: dict[int, bytes] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()
        """Shareable pages that no request uses now, least recently used first."""

    @property
    def num_free(self) -> int:
        """Pages that an allocation can get now."""
        return len(self._free) + len(self._idle)

    @property
    def num_shared(self) -> int:
        """Pages held for reuse by later prompts."""
        return len(self._page_of)

    def pages_for(self, num_tokens: int) -> int:
        """Number of pages that hold `num_tokens`."""
        return -(-num_tokens // self.page_size)

    def match(self, prompt_ids: Sequence[int]) -> list[int]:
        """Returns the pages that hold the KV of the prompt's longest cached prefix; the caller now uses them.

        The last token is never part of the prefix: it must run to give a logit.
        """
        pages: list[int] = []
        for key in list(self._page_keys(prompt_ids, len(prompt_ids) - 1)):
            page = self._page_of.get(key)
            if page is None:
                break
            pages.append(page)
            self._users[page] = self._users.get(page, 0) + 1
            self._idle.pop(page, None)
        return pages

    def allocate(self, count: int) -> list[int] | None:
        """Returns `count` pages, ascending and consecutive where possible; None if there are too few."""
        if count > self.num_free:
            return None
        while len(self._free) < count:
            self.withdraw([next(iter(self._idle))])
        pages = [heapq.heappop(self._free) for _ in range(count)]
        for page in pages:
            self._users[page] = 1
        return pages

    def share(self, pages: Sequence[int], prompt_ids: Sequence[int], *, num_matched: int = 0) -> None:
        """Offers the full pages of a prefilled prompt to later requests. A prefix that is already offered stays.

        Args:
            pages: pages of the prompt, which the caller uses.
            prompt_ids: the prompt.
            num_matched: number of pages at the beginning that came from `match`. They are not offered anew, because
                an offer that was withdrawn meanwhile must stay withdrawn.
        """
        for index, key in enumerate(self._page_keys(prompt_ids, len(prompt_ids))):
            page = pages[index]
            if index >= num_matched and key not in self._page_of and page not in self._key_of:
                self._page_of[key] = page
                self._key_of[page] = key

    def withdraw(self, pages: Sequence[int]) -> None:
        """Offers these pages no more. Requests that use them keep them."""
        for page in pages:
            key = self._key_of.pop(page, None)
            if key is not None:
                del self._page_of[key]
            if page in self._idle:
                del self._idle[page]
                heapq.heappush(self._free, page)

    def release(self, pages: Sequence[int]) -> list[int]:
        """Gives pages back. Those that are offered are kept until the space is needed.

        Returns:
            The pages that are free now: without users and without an offer.
        """
        freed = []
        for page in pages:
            self._users[page] -= 1
            if self._users[page]:
                continue
            del self._users[page]
            if page in self._key_of:
                self._idle[page] = None
            else:
                heapq.heappush(self._free, page)
                freed.append(page)
        return freed

    def _page_keys(self, prompt_ids: Sequence[int], num_tokens: int) -> Iterator[bytes]:
        """Yields the identity of each full page in the first `num_tokens`: a digest of the prompt up to its end."""
        key = b""
        for start in range(0, num_tokens // self.page_size * self.page_size, self.page_size):
            tokens = array("q", prompt_ids[start : start + self.page_size]).tobytes()
            key = hashlib.blake2b(key + tokens, digest_size=16).digest()
            yield key
