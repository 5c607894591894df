"""The CPU kernels against their formulas in float64, in both types and widths of vectors; a row alone, to the bit."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pytest
import torch
from trimode.kernels.argmax import cpu as argmax_cpu
from trimode.kernels.linear import linear, pack, packs, product
from trimode.kernels.llvm import jit as llvm
from trimode.kernels.llvm.emitter import Emitter, Value
from trimode.kernels.paged_attention import attends, block_attention, paged_attention
from trimode.kernels.rms_norm import cpu as rms_norm_cpu
from trimode.kernels.rms_norm import reference as rms_norm_reference
from trimode.kernels.rope import apply_rope, rotate_and_store, rotates
from trimode.kernels.silu_mul import cpu as silu_mul_cpu
from trimode.kernels.silu_mul import reference as silu_mul_reference
from trimode.kernels.softmax_total import cpu as softmax_total_cpu
from trimode.kernels.softmax_total import reference as softmax_total_reference

pytestmark = pytest.mark.skipif(not llvm.num_lanes(), reason="no llvmlite, or a CPU without AVX2")
WIDTHS = [lanes for lanes in (16, 8) if lanes <= llvm.num_lanes()]
DTYPES = [torch.bfloat16, torch.float32]


@pytest.fixture(params=WIDTHS, autouse=True)
def lanes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Every test for each width of vectors that this CPU has."""
    for module in (
        "llvm.jit",
        "linear.cpu",
        "paged_attention.cpu",
        "rms_norm.cpu",
        "rope.cpu",
        "silu_mul.cpu",
        "softmax_total.cpu",
        "argmax.cpu",
    ):
        monkeypatch.setattr(f"trimode.kernels.{module}.num_lanes", lambda: request.param)
    return int(request.param)


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def normal(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def no_worse(got: torch.Tensor, plain: torch.Tensor, exact: torch.Tensor) -> None:
    """The kernel's error is at most twice that of plain torch in the same type."""
    assert got.dtype == plain.dtype
    assert (got - exact).abs().sum() <= 2 * (plain - exact).abs().sum() + 1e-9


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(96, 64), (33, 48), (1, 16), (160, 1056), (64, 240)])
def test_product(shape: tuple[int, int], dtype: torch.dtype) -> None:
    weight = normal(*shape, dtype=dtype)
    packed = pack(weight)
    results = []
    for rows in (0, 1, 2, 13, 14, 15, 16, 17, 29, 64, 300):
        x, residual = (normal(rows, width, dtype=dtype, seed=rows) for width in (shape[1], shape[0]))
        exact, before = x.double() @ weight.double().T, residual.clone()
        results.append((product(x, packed, shape[0]), linear(x, weight), exact))
        added = product(x, packed, shape[0], residual)
        results.append((added, linear(x, weight, residual), exact + residual.double()))
        assert torch.equal(residual, before)
    no_worse(*(torch.cat(column) for column in zip(*results, strict=True)))


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_of_a_product_does_not_depend_on_the_others(dtype: torch.dtype) -> None:
    weight, x = normal(96, 256, dtype=dtype), normal(1100, 256, dtype=dtype, seed=1)
    packed = pack(weight)
    together = product(x, packed, 96, x[:, :96])
    for rows in (slice(0, 1), slice(7, 9), slice(90, 105), slice(0, 31), slice(500, 1099)):
        assert torch.equal(product(x[rows], packed, 96, x[rows, :96]), together[rows])


def test_product_of_strided_rows_and_of_what_is_not_finite() -> None:
    weight, wide = normal(32, 64, dtype=torch.bfloat16), normal(5, 128, dtype=torch.bfloat16)
    assert torch.equal(product(wide[:, :64], pack(weight), 32), product(wide[:, :64].contiguous(), pack(weight), 32))
    wide[1, 0], wide[2, 0] = math.nan, math.inf
    got = product(wide[:, :64], pack(weight), 32)
    assert got[1].isnan().all()
    assert not got[2].isfinite().any()
    assert got[[0, 3, 4]].isfinite().all()


def test_pack_leaves_what_it_cannot_take() -> None:
    assert not packs(torch.zeros(32, 20))
    assert not packs(torch.zeros(32, 64, dtype=torch.float16))
    with pytest.raises(ValueError, match=r"pack: got torch.float32 \(32, 20\) on cpu"):
        pack(torch.zeros(32, 20))
    with pytest.raises(ValueError, match=r"product: x torch.float32 \(2, 32\), weight torch.float32 32 x 64"):
        product(torch.zeros(2, 32), pack(torch.zeros(32, 64)), 32)
    with pytest.raises(ValueError, match="product: residual"):
        product(torch.zeros(2, 64), pack(torch.zeros(32, 64)), 32, torch.zeros(3, 32))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_product_with_units_is_the_weight_itself(dtype: torch.dtype) -> None:
    weight = normal(64, 48, dtype=dtype)
    assert torch.equal(product(torch.eye(48, dtype=dtype), pack(weight), 64), weight.T)


@pytest.mark.parametrize("dtype", DTYPES)
def test_product_whatever_the_default_type(dtype: torch.dtype) -> None:
    weight, x = normal(32, 64, dtype=dtype), normal(5, 64, dtype=dtype)
    expected = product(x, pack(weight), 32)
    torch.set_default_dtype(torch.bfloat16)
    try:
        assert torch.equal(product(x, pack(weight), 32), expected)
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_filled_up_product_is_what_later_kernels_take_for_any_rows() -> None:
    weight, x = normal(48, 64), normal(5, 64)
    for rows in (1, 5):
        assert product(x[:rows], pack(weight), 48).is_contiguous()


def cache_of(rows: int, keys: int, kv_heads: int, dim: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Pages in any order; what is beyond the keys of a row is huge, but finite."""
    width = -(-keys // 16)
    pages = torch.randperm(rows * width, generator=torch.Generator().manual_seed(3)).view(rows, width)
    cache = normal(rows * width, 16, 2 * kv_heads, dim, dtype=dtype)
    cache[pages[:, -1], keys - (width - 1) * 16 :] = 1e30
    return cache, pages


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(
    ("rows", "queries", "keys", "heads", "kv_heads", "dim"),
    [(1, 1, 1, 4, 4, 16), (3, 1, 45, 6, 2, 32), (2, 5, 33, 5, 1, 48), (2, 40, 97, 8, 2, 64), (1, 70, 70, 4, 1, 128)],
)
def test_paged_attention(
    rows: int, queries: int, keys: int, heads: int, kv_heads: int, dim: int, causal: bool, dtype: torch.dtype
) -> None:
    cache, pages = cache_of(rows, keys, kv_heads, dim, dtype)
    assert attends(cache)
    q = normal(rows, queries, heads, dim, dtype=dtype, seed=1)
    last = torch.arange(keys - queries, keys).repeat(rows, 1)
    last = (last - torch.arange(rows).unsqueeze(1)).clamp_min(0) if causal else torch.full_like(last, keys - 1)
    kv = cache[pages].flatten(1, 2)[:, :keys]
    k, v = kv.chunk(2, dim=2)
    exact = block_attention(q.double(), k.double(), v.double(), last, dim**-0.5).flatten(0, 1)
    plain = block_attention(q, k, v, last, dim**-0.5).flatten(0, 1)
    no_worse(paged_attention(q, cache, pages, last, keys, dim**-0.5), plain, exact)
    if not causal:
        alike = paged_attention(q, cache, pages, None, keys, dim**-0.5)
        assert torch.equal(alike, paged_attention(q, cache, pages, last, keys, dim**-0.5))


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_query_does_not_depend_on_its_company_or_its_slice(dtype: torch.dtype) -> None:
    cache, pages = cache_of(3, 90, 2, 32, dtype)
    q = normal(3, 40, 6, 32, dtype=dtype)
    last = torch.arange(50, 90).repeat(3, 1)
    together = paged_attention(q, cache, pages, last, 90, 0.2).view(3, 40, -1)
    for row in range(3):
        for first, end in ((0, 1), (39, 40), (3, 20), (11, 12)):
            keys = 50 + end
            some = pages[row : row + 1, : -(-keys // 16)]
            alone = paged_attention(q[row : row + 1, first:end], cache, some, last[row : row + 1, first:end], keys, 0.2)
            assert torch.equal(alone, together[row, first:end])


def test_float32_attention_over_a_long_context() -> None:
    cache, pages = cache_of(1, 8000, 1, 64, torch.float32)
    q = normal(1, 1, 4, 64, seed=1)
    k, v = cache[pages].flatten(1, 2)[:, :8000].chunk(2, dim=2)
    exact = block_attention(q.double(), k.double(), v.double(), None, 0.125).flatten(0, 1)
    plain = block_attention(q, k, v, None, 0.125).flatten(0, 1)
    got = paged_attention(q, cache, pages, None, 8000, 0.125)
    assert (got - exact).abs().sum() <= 4 * (plain - exact).abs().sum()


def test_attention_where_a_whole_block_scores_minus_infinity() -> None:
    cache = torch.zeros(3, 16, 2, 32)
    cache[:2, :, 0] = -1e20
    cache[:, :, 1] = 1.0
    q = torch.full((1, 1, 1, 32), 1e20)
    assert torch.equal(paged_attention(q, cache, torch.arange(3).unsqueeze(0), None, 48, 1.0), torch.ones(1, 32))


def test_attention_of_queries_that_lie_in_any_order() -> None:
    cache, pages = cache_of(3, 20, 1, 32, torch.float32)
    q = normal(1, 3, 2, 32).transpose(0, 1)
    expected = paged_attention(q.clone(memory_format=torch.contiguous_format), cache, pages, None, 20, 0.2)
    assert torch.equal(paged_attention(q, cache, pages, None, 20, 0.2), expected)


def test_attention_says_that_a_query_is_not_finite() -> None:
    cache, pages = cache_of(2, 40, 1, 32, torch.float32)
    q = normal(2, 1, 2, 32)
    q[0, 0, 0, 3] = math.nan
    got = paged_attention(q, cache, pages, None, 40, 0.2).view(2, 2, 32)
    assert got[0, 0].isnan().all()
    assert got[0, 1].isfinite().all()
    assert got[1].isfinite().all()
    cache[pages[1, 0], 3, 0, 0] = math.nan
    assert paged_attention(q, cache, pages, None, 40, 0.2).view(2, 2, 32)[1].isnan().all()


def test_attention_names_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"paged_attention: .* pages \(1, 2\) for 40 keys"):
        paged_attention(torch.zeros(1, 1, 2, 32), torch.zeros(4, 16, 2, 32), torch.zeros(1, 2).long(), None, 40, 1.0)
    for pages, keys in ((torch.zeros(1, 2, dtype=torch.int32), 20), (torch.zeros(1, 2).long(), 0)):
        with pytest.raises(ValueError, match="paged_attention"):
            paged_attention(torch.zeros(1, 1, 2, 32), torch.zeros(4, 16, 2, 32), pages, None, keys, 1.0)
    assert not attends(torch.zeros(4, 16, 4, 32)[:, :, :2])
    assert not attends(torch.zeros(4, 16, 3, 32))


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("dtype", DTYPES)
def test_rms_norm(dtype: torch.dtype) -> None:
    x, weight = normal(7, 80, dtype=dtype) * 3, normal(80, dtype=dtype, seed=1)
    wide = x.double()
    exact = wide / (wide.pow(2).mean(-1, keepdim=True) + 0.5).sqrt() * weight.double()
    assert rms_norm_cpu.takes(x, weight)
    got = rms_norm_cpu.rms_norm(x, weight, 0.5)
    no_worse(got, rms_norm_reference.rms_norm(x, weight, 0.5), exact)
    assert torch.equal(rms_norm_cpu.rms_norm(x[3:4], weight, 0.5), got[3:4])
    assert not rms_norm_cpu.takes(x[:, :70], weight[:70])


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("dtype", DTYPES)
def test_silu_mul(dtype: torch.dtype) -> None:
    x = normal(9, 96, dtype=dtype) * 4
    x[0, :6] = torch.tensor([0.0, -1e4, 1e4, -89, 89, -0.0])
    gate, up = x.double().chunk(2, dim=-1)
    assert silu_mul_cpu.takes(x)
    no_worse(silu_mul_cpu.silu_mul(x), silu_mul_reference.silu_mul(x), gate * gate.sigmoid() * up)
    x[1, 0], x[2, 0], x[3, :2] = math.nan, -math.inf, torch.tensor([-1e38, -3e38])
    got = silu_mul_cpu.silu_mul(x)
    assert got[1, 0].isnan()
    assert got[2, 0].isnan()
    assert got[3, :2].tolist() == [0.0, 0.0]


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("dtype", DTYPES)
def test_rotate_and_store(dtype: torch.dtype) -> None:
    qkv, cos, sin = (
        normal(5, 6, 64, dtype=dtype),
        normal(5, 64, dtype=dtype, seed=1),
        normal(5, 64, dtype=dtype, seed=2),
    )
    cache = torch.full((40, 2, 64), math.nan, dtype=dtype)
    slots = torch.tensor([33, 2, 17, 0, 39])
    exact, plain = apply_rope(qkv.double(), cos.double(), sin.double()), apply_rope(qkv, cos, sin)
    before = qkv.clone()
    assert rotates(qkv, cache)
    rotate_and_store(qkv, cos, sin, cache, slots)
    no_worse(qkv[:, :4], plain[:, :4], exact[:, :4])
    no_worse(cache[slots, :1], plain[:, 4:5], exact[:, 4:5])
    assert torch.equal(cache[slots, 1], before[:, 5])
    untouched = torch.ones(40, dtype=torch.bool).index_fill_(0, slots, False)
    assert cache[untouched].isnan().all()
    with pytest.raises(ValueError, match="rotate_and_store"):
        rotate_and_store(qkv, cos[:4], sin, cache, slots)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("width", [16, 17, 31, 944, 40001])
def test_softmax_total(width: int) -> None:
    logits = normal(5, width + 3)[:, :width] * 6
    logits[1, 1:] = -1e4
    logits[2, -1] = math.nan
    assert softmax_total_cpu.takes(logits)
    peak, total = softmax_total_cpu.softmax_total(logits)
    finite = torch.tensor([0, 1, 3, 4])
    assert torch.equal(peak[finite], logits.amax(dim=-1)[finite])
    assert total[2].isnan()
    exact = (logits.double() - logits.double().amax(dim=-1, keepdim=True)).exp().sum(dim=-1)
    assert ((total - exact).abs() / exact)[finite].max() <= 1e-6
    plain = softmax_total_reference.softmax_total(logits)[1]
    assert ((plain - exact).abs() / exact)[finite].max() <= 1e-6
    assert torch.equal(softmax_total_cpu.softmax_total(logits[3:4])[1], total[3:4])


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("width", [16, 17, 944, 40001])
def test_argmax(width: int) -> None:
    values = normal(9, width + 5)[:, :width]
    values[1] = -math.inf
    values[2] = 0.0
    values[3, [3, width - 1, width // 2]] = 9.0
    values[4, -1] = 9.0
    values[5, 0] = math.inf
    assert argmax_cpu.takes(values)
    got = argmax_cpu.argmax(values)
    assert got.tolist() == [int((row == row.max()).nonzero()[0, 0]) for row in values]
    values[:] = math.nan
    assert ((argmax_cpu.argmax(values) >= 0) & (argmax_cpu.argmax(values) < width)).all()


def test_exp_over_its_range(lanes: int) -> None:
    def emit(e: Emitter, x: Value, y: Value) -> Callable[[Value], None]:
        return lambda item: e.store(e.exp(e.load(e.at(x, e.mul(item, lanes), 4))), e.at(y, e.mul(item, lanes), 4))

    x = torch.cat((torch.linspace(-87, 87.99, 4091), torch.tensor([0.0, -math.inf, -88.0, math.nan, 200.0])))
    y = torch.empty_like(x)
    llvm.ParallelKernel(lanes, 2, emit)(len(x) // lanes, x.data_ptr(), y.data_ptr())
    exact = x[:-4].double().exp()
    assert ((y[:-4] - exact).abs() / exact).max() <= 2 * 2**-23
    assert y[-5:-2].tolist() == [1.0, 0.0, 0.0]
    assert y[-2].isnan()
    assert y[-1] == math.inf


def test_bfloat16_is_rounded_to_even_as_torch_does(lanes: int) -> None:
    def emit(e: Emitter, x: Value, y: Value) -> Callable[[Value], None]:
        return lambda item: e.store(e.load(e.at(x, e.mul(item, lanes), 4)), e.at(y, e.mul(item, lanes), 2), 2)

    bits = torch.randint(-(2**31), 2**31 - 1, (4096,), generator=torch.Generator().manual_seed(0)).to(torch.int32)
    bits[:8] = torch.tensor([0x3F808000, 0x3F818000, 0x7F7FFFFF, 0x7F800000, 0x7FFFFFFF, 0x00000001, 0x00008000, 0])
    x = bits.view(torch.float32)
    y = torch.empty(len(x), dtype=torch.bfloat16)
    llvm.ParallelKernel(lanes, 2, emit)(len(x) // lanes, x.data_ptr(), y.data_ptr())
    assert torch.equal(y.isnan(), x.isnan())
    assert torch.equal(y[~x.isnan()].view(torch.int16), x.bfloat16()[~x.isnan()].view(torch.int16))
