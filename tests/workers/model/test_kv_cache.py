"""The cache's tensors: slots are a view of the pages, wiped pages are zeros, and sizes follow from the budget."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from trimode.core.errors import WorkerError
from trimode.tests.workers.micro import MICRO
from trimode.workers.model.checkpoint import read_config
from trimode.workers.model.kv_cache import PAGE_SIZE, KVCache, default_num_pages, pages_for


@pytest.fixture
def cache() -> KVCache:
    return KVCache(read_config(MICRO), 8, torch.float32, torch.device("cpu"))


def test_a_slot_is_a_token_of_a_page(cache: KVCache) -> None:
    cache.slots(1)[3 * PAGE_SIZE + 5] = 7.0
    assert (cache.layer(1)[3, 5] == 7.0).all()
    assert cache.layer(1).sum() == 7.0 * cache.layer(1)[3, 5].numel()
    assert not cache.layer(0).any()


def test_clear_wipes_the_named_pages_of_every_layer(cache: KVCache) -> None:
    for number in range(4):
        cache.layer(number)[:] = torch.nan
    cache.clear([2, 5])
    for number in range(4):
        pages = cache.layer(number).isnan().flatten(1).all(dim=1).tolist()
        assert [page for page, nan in enumerate(pages) if not nan] == [2, 5]


def test_there_is_a_spare_page_behind_those_of_the_requests(cache: KVCache) -> None:
    assert cache.spare_page == 8
    assert [cache.layer(number).shape[0] for number in range(4)] == [9] * 4


@pytest.mark.parametrize(("tokens", "pages"), [(0, 0), (1, 1), (PAGE_SIZE, 1), (PAGE_SIZE + 1, 2)])
def test_pages_for(tokens: int, pages: int) -> None:
    assert pages_for(tokens) == pages


def test_the_budget_is_what_the_tensors_take(cache: KVCache) -> None:
    taken = sum(cache.layer(number).nbytes for number in range(4))
    assert default_num_pages(read_config(MICRO), torch.float32, taken) == 8
    assert default_num_pages(read_config(MICRO), torch.float32, taken - 1) == 7


def resident_mib() -> float:
    """Memory of this process that holds no file, in MiB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


def test_pages_on_a_cpu_take_memory_when_they_are_first_written() -> None:
    config = read_config(MICRO)
    before = resident_mib()
    cache = KVCache(config, default_num_pages(config, torch.float32, 512 << 20), torch.float32, torch.device("cpu"))
    assert resident_mib() - before < 128
    for number in range(config.num_layers):
        assert not cache.layer(number)[-1].any()
        cache.layer(number)[::2] = 1.0
    assert resident_mib() - before > 192


def test_a_cache_that_is_too_large_for_the_machine_says_what_to_lower() -> None:
    with pytest.raises(WorkerError, match=r"no room for a KV cache of 34359738368 pages .*; lower kv_cache_gb"):
        KVCache(read_config(MICRO), 1 << 35, torch.float32, torch.device("cpu"))
