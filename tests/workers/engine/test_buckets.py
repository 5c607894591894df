"""The sizes of CUDA graphs: what padding costs, and which graph a step gets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trimode.workers.engine.buckets import (
    CYCLE_BLOCK,
    MAX_PADDING,
    MAX_QUERIES,
    MAX_SLICE,
    Bucket,
    Buckets,
    Kind,
    ladder,
)

PLAIN = Buckets(128, lora=False)
WITH_ADAPTER = Buckets(128, lora=True)


def test_padding_costs_at_most_twelve_percent_for_every_number_of_tokens() -> None:
    sizes = ladder(4096)
    assert sizes == sorted(set(sizes))
    for tokens in range(1, 4097):
        size = next(size for size in sizes if size >= tokens)
        assert size - tokens <= 0.12 * tokens, (tokens, size)


@pytest.mark.parametrize("largest", [1, 2, 7, 8, 9, 63, 64, 100, 1000])
def test_a_ladder_ends_at_its_largest_size(largest: int) -> None:
    assert ladder(largest)[-1] == largest


def test_large_sizes_are_multiples_of_a_tile_and_few() -> None:
    assert [size for size in ladder(4096) if size >= 64 and size % 8] == []
    assert len(ladder(4096)) <= 64
    assert len(PLAIN.all) <= 400


@pytest.mark.parametrize(("mode", "block"), [("ar", 1), ("dlm", 8), ("linear_spec", 32)])
@pytest.mark.parametrize("buckets", [PLAIN, WITH_ADAPTER], ids=["plain", "adapter"])
def test_every_number_of_requests_of_a_mode_has_a_graph(mode: str, block: int, buckets: Buckets) -> None:
    """With the mode's default block. In linear_spec both as a whole cycle and as single passes."""
    kinds = [Kind.GREEDY, Kind.FORWARD] + [Kind.CYCLE] * (mode == "linear_spec")
    for requests in range(1, 129):
        for kind in kinds:
            for lora in {False, buckets is WITH_ADAPTER and mode == "linear_spec"}:
                assert buckets.choose(kind, [block] * requests, lora=lora), (requests, kind, lora)


@given(st.lists(st.integers(1, MAX_QUERIES), min_size=1, max_size=128), st.sampled_from(Kind), st.booleans())
def test_the_chosen_graph_is_large_enough_and_close(lengths: list[int], kind: Kind, lora: bool) -> None:
    bucket = WITH_ADAPTER.choose(kind, lengths, lora=lora)
    if bucket is None:
        return
    assert bucket in WITH_ADAPTER.all
    assert bucket.kind is kind
    assert bucket.lora or not lora
    assert sum(lengths) <= bucket.tokens <= (1 + MAX_PADDING) * sum(lengths)
    assert len(lengths) <= bucket.requests
    assert bucket.min_queries <= min(lengths) <= max(lengths) <= bucket.max_queries


@pytest.mark.parametrize("requests", [1, 3, 20, 128])
def test_rows_of_one_kind_get_a_graph_without_the_others_kernels(requests: int) -> None:
    single = PLAIN.choose(Kind.GREEDY, [1] * requests, lora=False)
    blocks = PLAIN.choose(Kind.GREEDY, [8] * requests, lora=False)
    mixed = PLAIN.choose(Kind.GREEDY, [8] * requests + [1], lora=False)
    assert single is not None
    assert (single.min_queries, single.max_queries) == (1, 1)
    assert blocks is not None
    assert blocks.min_queries == 8
    assert mixed is None or mixed.min_queries == 1


@given(st.lists(st.integers(1, MAX_QUERIES), min_size=1, max_size=128), st.booleans(), st.sampled_from(Kind))
def test_any_mixture_has_a_graph(lengths: list[int], lora: bool, kind: Kind) -> None:
    if sum(lengths) <= WITH_ADAPTER.all[0].tokens and len(lengths) <= 128 and kind is not Kind.CYCLE:
        assert WITH_ADAPTER.choose(kind, lengths, lora=lora) is not None


@pytest.mark.parametrize("requests", [1, 2, 16, 128])
@pytest.mark.parametrize("kind", [Kind.GREEDY, Kind.FORWARD])
def test_a_slice_of_a_prompt_has_a_graph_beside_a_token_of_all_others(requests: int, kind: Kind) -> None:
    buckets = Buckets(requests, lora=False)
    for length in (1, 9, 65, 300, MAX_SLICE):
        assert buckets.choose(kind, [length] + [1] * (requests - 1), lora=False), length


def test_what_no_graph_runs() -> None:
    assert PLAIN.choose(Kind.GREEDY, [MAX_SLICE + 1], lora=False) is None
    assert PLAIN.choose(Kind.GREEDY, [MAX_QUERIES] * 128, lora=False) is None  # more tokens than the largest
    assert PLAIN.choose(Kind.GREEDY, [32], lora=True) is None  # no adapter is loaded
    assert PLAIN.choose(Kind.CYCLE, [4] * 4, lora=False) is None  # blocks that short do not run as whole cycles


def test_a_cycle_of_the_default_block_has_no_padding() -> None:
    one = PLAIN.choose(Kind.CYCLE, [CYCLE_BLOCK], lora=False)
    assert one is not None
    assert (one.tokens, one.requests) == (CYCLE_BLOCK, 1)
    assert PLAIN.choose(Kind.CYCLE, [8, 16, 12, 64], lora=False) is not None


def test_graphs_are_in_the_order_of_capture() -> None:
    sizes = [bucket.tokens for bucket in PLAIN.all]
    assert sizes == sorted(sizes, reverse=True)
    assert PLAIN.all[0].tokens == 4096
    assert Buckets(4, lora=False).all[0].tokens == MAX_SLICE + 4
    assert Buckets(4, lora=False, max_tokens=100).all[0].tokens == 100


def test_a_bucket_says_what_it_is() -> None:
    assert str(Bucket(64, 8, Kind.GREEDY, 8, 64, False)) == "greedy pass of 64 tokens and 8 requests of 8-64"
    assert str(Bucket(5, 5, Kind.FORWARD, 1, 1, False)) == "forward of 5 tokens and 5 requests of 1"
    assert str(Bucket(64, 2, Kind.CYCLE, 8, 64, True)) == "cycle of 64 tokens and 2 requests of 8-64 with the adapter"
