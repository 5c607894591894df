"""Attention over pages: rows of all sizes in one call, against float64, and a query alone to the bit."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from trimode.kernels.llvm import jit
from trimode.kernels.paged_attention import Ragged, Row, describe, describe_rows, paged_attention, reference
from trimode.tests.kernels.conftest import pretend
from trimode.tests.kernels.numerics import DTYPES, assert_no_worse, normal

PAGE = 16
CPU = torch.device("cpu")


def causal(num_queries: int, num_keys: int, pages: Sequence[int]) -> Row:
    return Row(pages=pages, num_keys=num_keys, last_keys=range(num_keys - num_queries, num_keys))


def full(num_queries: int, num_keys: int, pages: Sequence[int]) -> Row:
    return Row(pages=pages, num_keys=num_keys, last_keys=[num_keys - 1] * num_queries)


def cache_of(
    sizes: Sequence[tuple[int, int, bool]], kv_heads: int, dim: int, dtype: torch.dtype
) -> tuple[torch.Tensor, list[Row]]:
    """A cache and rows of (queries, keys, causal), their pages in any order; slots beyond a row's keys are huge."""
    widths = [-(-keys // PAGE) for _, keys, _ in sizes]
    free = torch.randperm(sum(widths) + 1, generator=torch.Generator().manual_seed(3)).tolist()
    cache = normal(len(free), PAGE, 2 * kv_heads, dim, dtype=dtype)
    rows = []
    for (queries, keys, is_causal), width in zip(sizes, widths, strict=True):
        pages, free = free[:width], free[width:]
        cache[pages[-1], keys - (width - 1) * PAGE :] = 1e30
        rows.append((causal if is_causal else full)(queries, keys, pages))
    cache[free] = 1e30
    return cache, rows


def by_hand(q: torch.Tensor, cache: torch.Tensor, rows: Sequence[Row], scale: float) -> torch.Tensor:
    """One row at a time, scores and weights written out, in the dtype of q."""
    results, start = [], 0
    group = q.shape[1] // (cache.shape[2] // 2)
    for row in rows:
        own = q[start : start + len(row.last_keys)]
        start += len(row.last_keys)
        kv = cache[list(row.pages)].flatten(0, 1)[: row.num_keys].to(q.dtype)
        k, v = (part.repeat_interleave(group, dim=1) for part in kv.chunk(2, dim=1))
        scores = torch.einsum("thd,shd->hts", own, k) * scale
        prefix, words = row.num_keys - len(own), row.mask_words or [-1] * len(own)
        seen = [
            [key <= last and (key < prefix or bool(word >> (key - prefix) & 1)) for key in range(row.num_keys)]
            for last, word in zip(row.last_keys, words, strict=True)
        ]
        weights = scores.masked_fill(~torch.tensor(seen), -math.inf).softmax(-1)
        results.append(torch.einsum("hts,shd->thd", weights, v).flatten(1))
    return torch.cat(results)


MIXED = [(1, 1, True), (5, 33, True), (1, 200, True), (40, 97, True), (5, 40, False), (8, 8, False), (1, 45, True)]


@pytest.mark.slow
@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(4, 4, 16), (6, 2, 32), (5, 1, 48), (4, 2, 10), (8, 2, 128)])
@pytest.mark.parametrize("sizes", [MIXED, [(70, 70, True)], [(3, 64, False)] * 3], ids=["mixed", "one", "alike"])
def test_rows_of_all_sizes_in_one_call(
    sizes: list[tuple[int, int, bool]], heads: int, kv_heads: int, dim: int, dtype: torch.dtype, lanes: int
) -> None:
    cache, rows = cache_of(sizes, kv_heads, dim, dtype)
    ragged = describe_rows(rows, PAGE, CPU)
    q = normal(ragged.num_tokens, heads, dim, dtype=dtype, seed=1)
    assert describe(q, cache).startswith("cpu") == (lanes > 0 and dim % lanes == 0)
    exact = by_hand(q.double(), cache, rows, dim**-0.5)
    got = paged_attention(q, cache, ragged, dim**-0.5)
    assert_no_worse(got, by_hand(q, cache, rows, dim**-0.5), exact)


@pytest.mark.usefixtures("lanes")
def test_a_tree_of_drafts_by_mask_words() -> None:
    cache, rows = cache_of([(4, 20, True), (3, 37, True)], 1, 32, torch.float32)
    tree = Row(pages=rows[0].pages, num_keys=20, last_keys=[19] * 4, mask_words=[0b0001, 0b0011, 0b0101, 0b1011])
    whole = Row(pages=rows[0].pages, num_keys=20, last_keys=[19] * 4, mask_words=[-1] * 4)
    q = normal(7, 2, 32, seed=1)
    for first in (tree, whole):
        got = paged_attention(q, cache, describe_rows([first, rows[1]], PAGE, CPU), 0.2)
        exact = by_hand(q.double(), cache, [first, rows[1]], 0.2)
        assert torch.allclose(got.double(), exact, atol=1e-5)


@pytest.mark.usefixtures("lanes")
def test_a_word_has_a_bit_for_each_of_64_queries() -> None:
    cache, rows = cache_of([(64, 70, True)], 1, 32, torch.float32)
    words = [1 << b if b < 63 else -(1 << 63) for b in range(64)]
    row = Row(pages=rows[0].pages, num_keys=70, last_keys=[69] * 64, mask_words=words)
    q = normal(64, 1, 32, seed=1)
    got = paged_attention(q, cache, describe_rows([row], PAGE, CPU), 0.2)
    assert torch.allclose(got.double(), by_hand(q.double(), cache, [row], 0.2), atol=1e-5)


@pytest.mark.usefixtures("vector_lanes", "threads")
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_query_does_not_depend_on_other_rows_or_on_its_slice(dtype: torch.dtype) -> None:
    cache, rows = cache_of([(40, 90, True), (1, 30, True), (8, 64, False)], 2, 32, dtype)
    q = normal(49, 6, 32, dtype=dtype)
    together = paged_attention(q, cache, describe_rows(rows, PAGE, CPU), 0.2)
    for first, end in ((0, 1), (39, 40), (3, 20), (11, 12)):
        part = describe_rows([causal(end - first, 50 + end, rows[0].pages)], PAGE, CPU)
        assert torch.equal(paged_attention(q[first:end], cache, part, 0.2), together[first:end])
    for row, tokens in ((rows[1], slice(40, 41)), (rows[2], slice(41, 49))):
        assert torch.equal(paged_attention(q[tokens], cache, describe_rows([row], PAGE, CPU), 0.2), together[tokens])


@pytest.mark.usefixtures("lanes")
def test_a_long_context_in_float32() -> None:
    cache, rows = cache_of([(1, 8000, True)], 1, 64, torch.float32)
    q = normal(1, 4, 64, seed=1)
    exact, plain = by_hand(q.double(), cache, rows, 0.125), by_hand(q, cache, rows, 0.125)
    got = paged_attention(q, cache, describe_rows(rows, PAGE, CPU), 0.125)
    assert (got - exact).abs().sum() <= 4 * (plain - exact).abs().sum()


def test_where_a_whole_block_of_keys_scores_minus_infinity(vector_lanes: int) -> None:
    cache = torch.zeros(3, PAGE, 2, 32)
    cache[:2, :, 0] = -1e20
    cache[:, :, 1] = 1.0
    q = torch.full((1, 1, 32), 1e20)
    assert describe(q, cache).startswith(f"cpu, {vector_lanes}")
    got = paged_attention(q, cache, describe_rows([causal(1, 48, range(3))], PAGE, CPU), 1.0)
    assert torch.equal(got, torch.ones(1, 32))


@pytest.mark.usefixtures("lanes")
def test_queries_that_are_part_of_wider_rows() -> None:
    cache, rows = cache_of([(3, 20, True)], 1, 32, torch.float32)
    qkv, ragged = normal(3, 4, 32), describe_rows(rows, PAGE, CPU)
    expected = paged_attention(qkv[:, :2].clone(), cache, ragged, 0.2)
    assert torch.equal(paged_attention(qkv[:, :2], cache, ragged, 0.2), expected)
    turned = qkv[:, :2].transpose(0, 1).contiguous().transpose(0, 1)
    assert torch.equal(paged_attention(turned, cache, ragged, 0.2), expected)


@pytest.mark.usefixtures("lanes")
def test_a_query_that_is_not_finite_spoils_its_own_result_only() -> None:
    cache, rows = cache_of([(1, 40, True), (1, 40, True)], 1, 32, torch.float32)
    q = normal(2, 2, 32)
    q[0, 0, 3] = math.nan
    got = paged_attention(q, cache, describe_rows(rows, PAGE, CPU), 0.2).view(2, 2, 32)
    assert got[0, 0].isnan().all()
    assert got[0, 1].isfinite().all()
    assert got[1].isfinite().all()


@pytest.mark.usefixtures("lanes")
def test_a_row_without_queries_is_passed_over() -> None:
    cache, rows = cache_of([(2, 20, True), (3, 33, False)], 1, 32, torch.float32)
    q = normal(5, 2, 32)
    expected = paged_attention(q, cache, describe_rows(rows, PAGE, CPU), 0.2)
    empty = Row(pages=[], num_keys=0, last_keys=[])
    got = paged_attention(q, cache, describe_rows([empty, rows[0], empty, rows[1], empty], PAGE, CPU), 0.2)
    assert torch.equal(got, expected)
    assert paged_attention(q[:0], cache, describe_rows([empty], PAGE, CPU), 0.2).shape == (0, 64)


def test_the_description_of_rows() -> None:
    ragged = describe_rows([causal(2, 20, [7, 3, 9]), full(3, 40, [1, 2, 5])], PAGE, CPU)
    assert ragged.page_table_NP.tolist() == [[7, 3, 0], [1, 2, 5]]
    assert ragged.query_start_N1.tolist() == [0, 2, 5]
    assert ragged.num_keys_N.tolist() == [20, 40]
    assert ragged.last_key_T.tolist() == [18, 19, 39, 39, 39]
    assert ragged.mask_word_T is None
    assert (ragged.num_tokens, ragged.max_queries, ragged.max_keys, ragged.page_size) == (5, 3, 40, PAGE)


def test_what_is_derived_is_made_once() -> None:
    made: list[int] = []

    def make(ragged: Ragged, number: int) -> int:
        made.append(number)
        return ragged.num_tokens + number

    ragged = describe_rows([causal(2, 20, [0, 1])], PAGE, CPU)
    assert [ragged.derive(make, number) for number in (1, 1, 2, 1)] == [3, 3, 4, 3]
    assert made == [1, 2]


def test_all_gathers_of_a_step_use_one_scratch() -> None:
    _, rows = cache_of([(1, 20, True), (1, 20, True), (2, 40, True), (2, 40, True)], 1, 32, torch.float32)
    ragged = describe_rows(rows, PAGE, CPU)
    groups = ragged.derive(reference._groups, 2, torch.float32)
    layers = [normal(11, PAGE, 2, 32, seed=seed) for seed in (0, 1)]
    gathered = [reference._keys(layer, group, ragged) for layer in layers for group in groups]
    assert [keys.shape[:2] for keys in gathered] == [(2, 2 * PAGE), (2, 3 * PAGE)] * 2
    assert len({keys.data_ptr() for keys in gathered}) == 1


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (causal(1, 40, [0, 1]), r"row 1: got 40 keys, expected 0 to 32 \(2 pages of 16\)"),
        (Row(pages=[0], num_keys=5, last_keys=[5]), r"row 1: got last keys 5 to 5, expected 0 to 4"),
        (Row(pages=[0], num_keys=5, last_keys=[-1, 3]), r"row 1: got last keys -1 to 3, expected 0 to 4"),
        (Row(pages=[0], num_keys=5, last_keys=[4], mask_words=[1, 1]), r"row 1: got 2 mask words for 1 queries"),
        (Row(pages=range(9), num_keys=99, last_keys=[98] * 65, mask_words=[1] * 65), r"65 queries, .* at most 64"),
    ],
)
def test_rows_that_do_not_fit_are_named(row: Row, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        describe_rows([causal(1, 4, [0]), row], PAGE, CPU)


@pytest.mark.usefixtures("lanes")
def test_what_does_not_fit_is_named() -> None:
    ragged = describe_rows([causal(2, 20, [0, 1])], PAGE, CPU)
    q, cache = torch.zeros(2, 2, 32), torch.zeros(4, PAGE, 2, 32)
    wrong = [
        (q[:1], cache), (q[0], cache), (q, cache[:, :8]), (q, cache[..., :16]), (q, cache[:, :, :1]),
        (q, cache.bfloat16()), (q, cache[0]), (torch.zeros(2, 3, 32), torch.zeros(4, PAGE, 4, 32)),
    ]  # fmt: skip
    for queries, pages in wrong:
        with pytest.raises(ValueError, match=r"paged_attention: got q .*, cache .*; expected \[2, H, D\]"):
            paged_attention(queries, pages, ragged, 1.0)


def test_why_the_cpu_kernel_refuses(vector_lanes: int) -> None:
    q, cache = torch.zeros(1, 2, 32), torch.zeros(4, PAGE, 4, 32)
    assert describe(q, cache[:, :, :2]) == "reference: the cache is not contiguous"
    assert (
        describe(q[..., :20], torch.zeros(4, PAGE, 2, 20)) == f"reference: head_dim 20 is no multiple of {vector_lanes}"
    )
    assert describe(q.half(), cache.half()) == "reference: no CPU kernel for torch.float16"


@pytest.mark.skipif(not jit.has_bf16_dot(), reason="a CPU without AVX512-BF16")
@pytest.mark.parametrize("dim", [32, 128])
def test_the_instruction_for_pairs_changes_no_bit(dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, rows = cache_of(MIXED, 2, dim, torch.bfloat16)
    ragged = describe_rows(rows, PAGE, CPU)
    q = normal(ragged.num_tokens, 6, dim, dtype=torch.bfloat16, seed=1)
    q[3] *= 2.0**-130  # subnormal numbers, which the instruction takes as 0
    results = []
    for dot in (True, False):
        pretend(monkeypatch, 16, bf16_dot=dot)
        results.append(paged_attention(q, cache, ragged, dim**-0.5))
    assert torch.equal(results[0], results[1])
