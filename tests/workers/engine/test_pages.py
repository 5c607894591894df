"""Pages: shared by whole prefixes only, kept while somebody uses them, taken back oldest first."""

from __future__ import annotations

from trimode.workers.engine.pages import PageAllocator
from trimode.workers.model.kv_cache import PAGE_SIZE

END, OTHER_END = [7], [8]
FIRST, SECOND, THIRD = (list(range(start, start + PAGE_SIZE)) for start in (0, 100, 200))


def prefilled(allocator: PageAllocator, prompt: list[int]) -> list[int]:
    """Pages of a request that has computed its prompt and offers it."""
    shared = allocator.match(prompt)
    own = allocator.allocate(allocator.pages_for(len(prompt)) - len(shared))
    assert own is not None
    allocator.share(shared + own, prompt)
    return shared + own


def test_a_prefix_is_shared_page_by_page_but_never_the_last_token() -> None:
    allocator = PageAllocator(20, PAGE_SIZE)
    pages = prefilled(allocator, FIRST + SECOND + THIRD)
    assert allocator.match(FIRST + SECOND + END) == pages[:2]
    assert allocator.match(FIRST + SECOND) == pages[:1]
    assert allocator.match(FIRST) == []
    assert allocator.match(FIRST + SECOND[:-1] + [7, 7]) == pages[:1]


def test_the_same_tokens_behind_another_beginning_are_another_page() -> None:
    allocator = PageAllocator(20, PAGE_SIZE)
    prefilled(allocator, FIRST + SECOND + END)
    prefilled(allocator, THIRD + END)
    assert allocator.match(SECOND + END) == []
    assert len(allocator.match(THIRD + SECOND + END)) == 1


def test_a_page_is_free_when_its_last_user_left() -> None:
    allocator = PageAllocator(4, PAGE_SIZE)
    pages = prefilled(allocator, FIRST + END)
    again = prefilled(allocator, FIRST + OTHER_END)
    assert again[0] == pages[0]
    assert allocator.num_free == 1
    allocator.release(pages)
    assert allocator.num_free == 2
    assert allocator.allocate(3) is None
    allocator.release(again)
    assert allocator.num_free == 4


def test_offered_pages_are_taken_back_oldest_first() -> None:
    allocator = PageAllocator(4, PAGE_SIZE)
    old, new = prefilled(allocator, FIRST + END), prefilled(allocator, SECOND + END)
    allocator.release(old)
    allocator.release(new)
    assert allocator.num_shared == 2
    taken = allocator.allocate(3)
    assert taken is not None
    assert (allocator.num_shared, allocator.match(FIRST + END)) == (1, [])
    assert allocator.match(SECOND + END) == new[:1]


def test_forgotten_pages_are_offered_no_more() -> None:
    allocator = PageAllocator(4, PAGE_SIZE)
    pages = prefilled(allocator, FIRST + END)
    allocator.withdraw(pages)
    assert allocator.release(pages) == pages
    assert (allocator.num_shared, allocator.num_free, allocator.match(FIRST + END)) == (0, 4, [])


def test_a_withdrawn_page_is_offered_no_more_while_others_use_it() -> None:
    allocator = PageAllocator(8, PAGE_SIZE)
    pages = prefilled(allocator, FIRST + END)
    sharer = allocator.match(FIRST + OTHER_END)
    allocator.withdraw(pages)
    allocator.share(sharer, FIRST, num_matched=1)
    assert allocator.match(FIRST + OTHER_END) == []
    assert allocator.release(pages) == pages[1:]
    assert allocator.release(sharer) == pages[:1]
    assert allocator.num_free == 8


def test_withdrawing_a_page_that_is_kept_for_later_frees_it() -> None:
    allocator = PageAllocator(4, PAGE_SIZE)
    pages = prefilled(allocator, FIRST + END)
    assert allocator.release(pages) == pages[1:]
    allocator.withdraw(pages)
    assert (allocator.num_shared, allocator.num_free) == (0, 4)
    assert allocator.allocate(4) is not None
