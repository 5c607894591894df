"""Attention on a GPU: rows of all modes in one call, the same bits in both forms and next to any other rows.

Everything that no query may see is NaN.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import pytest
import torch
from trimode.kernels.cuda import runtime
from trimode.kernels.cuda.runtime import jit, tl
from trimode.kernels.paged_attention import Ragged, Row, cuda, describe, describe_rows, paged_attention, plan
from trimode.tests.kernels.numerics import assert_no_worse, normal
from trimode.tests.kernels.test_paged_attention import by_hand, causal, full

PAGE = 16
MIXED = [(1, 300, True), (20, 47, True), (2, 17, True), (66, 80, True), (1, 1, True), (17, 17, False)]
"""(queries, keys, causal) of rows of all three classes."""


def scene(
    sizes: Sequence[tuple[int, int, bool]], kv_heads: int, dim: int, dtype: torch.dtype
) -> tuple[torch.Tensor, list[Row]]:
    """A cache in which only the keys of the rows are numbers, and the rows, their pages in any order."""
    widths = [-(-keys // PAGE) for _, keys, _ in sizes]
    free = torch.randperm(sum(widths) + 2, generator=torch.Generator().manual_seed(3)).tolist()
    cache = torch.full((len(free), PAGE, 2 * kv_heads, dim), math.nan, dtype=dtype)
    rows = []
    for number, ((queries, keys, is_causal), width) in enumerate(zip(sizes, widths, strict=True)):
        pages, free = free[:width], free[width:]
        own = torch.full((width * PAGE, 2 * kv_heads, dim), math.nan, dtype=dtype)
        own[:keys] = normal(keys, 2 * kv_heads, dim, dtype=dtype, seed=number)
        cache[pages] = own.unflatten(0, (width, PAGE))
        rows.append((causal if is_causal else full)(queries, keys, pages))
    return cache, rows


def attend(q: torch.Tensor, cache: torch.Tensor, rows: Sequence[Row], gpu: torch.device) -> torch.Tensor:
    return paged_attention(q.to(gpu), cache.to(gpu), describe_rows(rows, PAGE, gpu), 0.2).cpu()


@pytest.fixture
def short_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Splits of 32, 32, 32, 32, 64, 64, 128, ... keys, and tiles in float32 as large as in bfloat16."""
    classes = [dataclasses.replace(kind, first_split=32, per_octave=2) for kind in (plan.DECODE, plan.BLOCK)]
    monkeypatch.setattr(cuda, "CLASSES", (*classes, plan.PREFILL))
    if runtime.is_interpreter():
        tile_of = plan.tile_of
        monkeypatch.setattr(cuda, "tile_of", lambda *args: tile_of(*args[:3], torch.bfloat16, args[4]))


def spread_or_walk(monkeypatch: pytest.MonkeyPatch, spread: bool) -> None:
    monkeypatch.setattr(plan.Class, "spreads", lambda self, *_: spread and self.first_split > 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "heads", "kv_heads", "dim"),
    [
        (torch.bfloat16, 4, 1, 128),
        (torch.float16, 2, 2, 64),
        (torch.float32, 3, 1, 32),
        (torch.bfloat16, 2, 1, 80),
        (torch.float32, 1, 1, 96),
    ],
)
def test_rows_of_all_modes_in_one_call(
    dtype: torch.dtype, heads: int, kv_heads: int, dim: int, gpu: torch.device
) -> None:
    cache, rows = scene(MIXED, kv_heads, dim, dtype)
    q = normal(sum(queries for queries, _, _ in MIXED), heads, dim, dtype=dtype, seed=99)
    assert describe(q.to(gpu), cache.to(gpu)) == f"cuda, sm_{runtime.capability(gpu)}"
    exact = by_hand(q.double(), cache, rows, 0.2)
    assert_no_worse(attend(q, cache, rows, gpu), by_hand(q, cache, rows, 0.2), exact)


@pytest.mark.parametrize("group", range(1, 17))
def test_every_number_of_query_heads_of_a_kv_head(group: int, gpu: torch.device) -> None:
    cache, rows = scene([(1, 20, True), (17, 33, True), (2, 5, False)], 1, 16, torch.float16)
    q = normal(20, group, 16, dtype=torch.float16, seed=9)
    exact = by_hand(q.double(), cache, rows, 0.2)
    assert torch.allclose(attend(q, cache, rows, gpu).double(), exact, atol=2e-3)


@pytest.mark.slow
@pytest.mark.usefixtures("short_splits")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sizes", [[(1, 200, True), (10, 140, True)], [(3, 129, False), (9, 33, True)]])
def test_both_forms_give_the_same_bits(
    sizes: list[tuple[int, int, bool]], dtype: torch.dtype, gpu: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, rows = scene(sizes, 1, 32, dtype)
    q = normal(sum(queries for queries, _, _ in sizes), 2, 32, dtype=dtype, seed=9)
    results = []
    for spread in (False, True):
        spread_or_walk(monkeypatch, spread)
        results.append(attend(q, cache, rows, gpu))
    assert torch.equal(*results)
    assert_no_worse(results[0], by_hand(q, cache, rows, 0.2), by_hand(q.double(), cache, rows, 0.2))


@pytest.mark.slow
@pytest.mark.usefixtures("short_splits")
@pytest.mark.parametrize("spread", [False, True])
def test_a_row_has_the_same_bits_alone(spread: bool, gpu: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [(1, 100, True), (18, 70, True), (66, 70, True), (2, 40, False)]
    cache, rows = scene(sizes, 1, 32, torch.float32)
    q = normal(87, 1, 32, seed=9)
    spread_or_walk(monkeypatch, spread)
    together, start = attend(q, cache, rows, gpu), 0
    spread_or_walk(monkeypatch, False)
    for row in rows:
        own = slice(start, start := start + len(row.last_keys))
        assert torch.equal(attend(q[own], cache, [row], gpu), together[own])


@pytest.mark.usefixtures("short_splits")
@pytest.mark.parametrize("spread", [False, True])
def test_mask_words_in_every_class(spread: bool, gpu: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    spread_or_walk(monkeypatch, spread)
    cache, rows = scene([(4, 70, False), (64, 66, False), (65, 65, True)], 1, 32, torch.float16)
    words = [1 << b if b < 63 else -(1 << 63) for b in range(64)]
    rows[0] = dataclasses.replace(rows[0], mask_words=[0b0001, 0b0011, 0b0101, 0b1011])
    rows[1] = dataclasses.replace(rows[1], mask_words=words)
    q = normal(133, 1, 32, dtype=torch.float16, seed=9)
    got = attend(q, cache, rows, gpu)
    assert torch.allclose(got.double(), by_hand(q.double(), cache, rows, 0.2), atol=2e-3)


@pytest.mark.usefixtures("short_splits")
@pytest.mark.parametrize("spread", [False, True])
def test_the_bounds_of_a_graph(spread: bool, gpu: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Padding rows have no queries and no keys, padding tokens no row, and the bounds are larger than the rows."""
    spread_or_walk(monkeypatch, spread)
    cache, rows = scene([(1, 50, True), (6, 70, True), (20, 45, False)], 1, 32, torch.float32)
    q = normal(32, 1, 32, seed=9)
    q[27:] = math.nan
    ragged = describe_rows(rows, PAGE, torch.device("cpu"))
    starts = torch.cat((ragged.query_start_N1, torch.tensor([27, 27], dtype=torch.int32)))
    bucket = dataclasses.replace(
        ragged,
        page_table_NP=torch.nn.functional.pad(ragged.page_table_NP, (0, 3, 0, 2), value=-1).to(gpu),
        query_start_N1=starts.to(gpu),
        num_keys_N=torch.nn.functional.pad(ragged.num_keys_N, (0, 2)).to(gpu),
        last_key_T=torch.nn.functional.pad(ragged.last_key_T, (0, 5), value=9999).to(gpu),
        num_tokens=32,
        max_queries=70,
        max_keys=130,
        rows=(),
        min_queries=1,
    )
    got = paged_attention(q.to(gpu), cache.to(gpu), bucket, 0.2)
    assert got.shape == (32, 32)
    assert torch.equal(got[:27].cpu(), attend(q[:27], cache, rows, gpu))


@pytest.mark.usefixtures("short_splits")
@pytest.mark.parametrize("spread", [False, True])
def test_queries_over_an_empty_cache_get_zeros(
    spread: bool, gpu: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    spread_or_walk(monkeypatch, spread)
    ragged = describe_rows([full(2, 40, [0, 1, 2])], PAGE, gpu)
    ragged = dataclasses.replace(ragged, num_keys_N=torch.zeros_like(ragged.num_keys_N), rows=())
    cache = torch.full((3, PAGE, 2, 32), math.nan, device=gpu)
    assert torch.equal(paged_attention(normal(2, 1, 32).to(gpu), cache, ragged, 0.2).cpu(), torch.zeros(2, 32))


def test_no_rows_and_no_queries(gpu: torch.device) -> None:
    cache, rows = scene([(2, 20, True), (3, 33, False)], 1, 32, torch.float32)
    q = normal(5, 2, 32)
    empty = Row(pages=[], num_keys=0, last_keys=[])
    expected = attend(q, cache, rows, gpu)
    assert torch.equal(attend(q, cache, [empty, rows[0], empty, rows[1], empty], gpu), expected)
    assert attend(q[:0], cache, [empty], gpu).shape == (0, 64)
    assert attend(q[:0], cache, [], gpu).shape == (0, 64)


def test_queries_that_are_part_of_wider_rows(gpu: torch.device) -> None:
    cache, rows = scene([(3, 20, True)], 2, 32, torch.float32)
    qkv = normal(3, 8, 32)
    ragged, pages = describe_rows(rows, PAGE, gpu), cache.to(gpu)
    expected = paged_attention(qkv[:, :4].contiguous().to(gpu), pages, ragged, 0.2)
    assert torch.equal(paged_attention(qkv.to(gpu)[:, :4], pages, ragged, 0.2), expected)
    turned = qkv[:, :4].transpose(0, 1).contiguous().to(gpu).transpose(0, 1)
    assert torch.equal(paged_attention(turned, pages, ragged, 0.2), expected)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, in the interpreter
def test_scores_that_are_not_finite_spoil_their_own_result_only(gpu: torch.device) -> None:
    cache, rows = scene([(1, 40, True), (1, 70, True)], 1, 32, torch.float32)
    q = normal(2, 2, 32)
    q[0, 0, 3] = math.nan
    got = attend(q, cache, rows, gpu).view(2, 2, 32)
    assert got[0, 0].isnan().all()
    assert got[0, 1].isfinite().all()
    assert got[1].isfinite().all()
    cache = torch.zeros(5, PAGE, 2, 32)
    cache[:4, :, 0] = -1e20
    cache[:, :, 1] = 1.0
    got = attend(torch.full((1, 1, 32), 1e20), cache, [causal(1, 80, range(5))], gpu)
    assert torch.equal(got, torch.ones(1, 32))


@jit
def _places(page_at, key_at, place_at, start_at, count_at):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    page, key = tl.load(page_at + tl.arange(0, 4)), tl.load(key_at + tl.arange(0, 4))
    tl.store(place_at + tl.arange(0, 4), cuda_key_offset(page, key, 16, 2048))
    for number in range(4):
        keys = tl.load(key_at + number)
        count = cuda_splits_of(keys, 128, 16)
        tl.store(count_at + number, count)
        tl.store(start_at + number, cuda_split_start(count - 1, 128, 16))


cuda_key_offset, cuda_splits_of, cuda_split_start = cuda._key_offset, cuda._splits_of, cuda._split_start


def test_places_in_large_caches_and_the_splits_of_long_contexts(gpu: torch.device) -> None:
    pages = torch.tensor([0, 65535, 65536, 2**31 - 1], dtype=torch.int32)
    keys = torch.tensor([3, 4097, 32768, 262144], dtype=torch.int32)
    places = torch.zeros(4, dtype=torch.int64, device=gpu)
    starts, counts = (torch.zeros(4, dtype=torch.int32, device=gpu) for _ in range(2))
    runtime.launch(_places, (1,), pages.to(gpu), keys.to(gpu), places, starts, counts)
    expected = [(page * 16 + key % 16) * 2048 for page, key in zip(pages.tolist(), keys.tolist(), strict=True)]
    assert places.tolist() == expected
    assert places[2] == 2**31
    assert counts.tolist() == [plan.DECODE.num_splits(key) for key in keys.tolist()] == [1, 33, 80, 128]
    assert starts.tolist() == [0, 4096, 31 * 1024, 31 * 8192]


def test_the_host_reads_nothing_of_the_device() -> None:
    """A captured graph has static tensors and bounds; tensors without memory show that only the bounds are used."""
    launched: list[tuple[str, tuple[int, ...]]] = []
    place = runtime.Elsewhere("meta", 90, lambda kernel, grid, *_, **__: launched.append((kernel.__name__, grid)))
    integers = {name: torch.zeros(size, dtype=torch.int32, device="meta") for name, size in (("N", 8), ("T", 256))}
    bucket = Ragged(
        page_table_NP=torch.zeros(8, 64, dtype=torch.int32, device="meta"),
        query_start_N1=torch.zeros(9, dtype=torch.int32, device="meta"),
        num_keys_N=integers["N"], last_key_T=integers["T"], mask_word_T=None,
        page_size=PAGE, num_tokens=256, max_queries=32, max_keys=1024, rows=(),
    )  # fmt: skip
    q, cache = torch.zeros(256, 32, 128, device="meta"), torch.zeros(9, PAGE, 16, 128, device="meta")
    with runtime.elsewhere(place):
        assert paged_attention(q.bfloat16(), cache.bfloat16(), bucket, 0.1).shape == (256, 4096)
        blocks = dataclasses.replace(bucket, min_queries=32)
        paged_attention(q.bfloat16(), cache.bfloat16(), blocks, 0.1)
    decode = [("_attend", (8, 8, 8)), ("_merge_splits", (32, 32))]
    assert launched == [*decode, *[("_attend", (24, 8, 4)), ("_merge_splits", (256, 32))] * 2]


def test_the_classes_and_forms() -> None:
    for group in range(1, 17):
        bounds = [kind.bounds(group) for kind in plan.CLASSES]
        assert [most + 1 for _, most in bounds[:2]] == [fewest for fewest, _ in bounds[1:]]
        assert bounds[0] == (1, 16 // group)
    assert not plan.PREFILL.spreads(1, 10**6, 1, 132)
    assert not plan.DECODE.spreads(8, 128, 1, 132)
    assert plan.DECODE.spreads(8, 129, 1, 132)
    assert not plan.DECODE.spreads(264, 129, 1, 132)
    assert not plan.DECODE.spreads(263, 262144, 1, 132)
    assert not plan.DECODE.spreads(8, 512, plan.WORKSPACE_BYTES // 8 + 1, 132)


def test_why_the_gpu_kernel_refuses(gpu: torch.device) -> None:
    q, cache = torch.zeros(1, 2, 32, device=gpu), torch.zeros(4, PAGE, 4, 32, device=gpu)
    assert cuda.supports(q, cache, None) is None
    assert cuda.supports(q.double(), cache.double(), None) == "no GPU kernel for torch.float64"
    assert cuda.supports(q[..., :20], cache, None) == "head_dim 20 is no multiple of 16 up to 128"
    assert cuda.supports(torch.zeros(1, 34, 32, device=gpu), cache, None) == "17 query heads per KV head, at most 16"
    assert cuda.supports(torch.zeros(1, 2, 64, device=gpu)[..., ::2], cache, None) == "head_dim is not contiguous"
    assert cuda.supports(q, cache[:, :8], None) == "pages are not adjacent"


def test_what_does_not_fit_is_named(gpu: torch.device) -> None:
    cache, rows = scene([(2, 20, True)], 1, 32, torch.float32)
    q, cache, ragged = normal(2, 2, 32).to(gpu), cache.to(gpu), describe_rows(rows, PAGE, gpu)
    with pytest.raises(ValueError, match=r"got q on .*, cache on meta, rows on .*; expected one device"):
        paged_attention(q, cache.to("meta"), ragged, 1.0)
    with pytest.raises(ValueError, match=r"got scale -1.0, expected a number above 0"):
        paged_attention(q, cache, ragged, -1.0)
    with pytest.raises(ValueError, match=r"got q .*, cache .*; expected \[2, H, D\]"):
        paged_attention(q[:1], cache, ragged, 1.0)
