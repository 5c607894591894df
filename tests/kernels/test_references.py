"""The plain-torch operators against their formulas written out, in float64 or by hand, at odd sizes."""

from __future__ import annotations

import math

import pytest
import torch
from trimode.kernels.confidence_commit import confidence_commit
from trimode.kernels.paged_attention import block_attention
from trimode.kernels.prefix_verify import prefix_verify
from trimode.kernels.rms_norm import rms_norm
from trimode.kernels.rope import apply_rope, query_scale, rope_cos_sin


def attention_by_hand(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
    rows, queries, heads, dim = q.shape
    out = torch.zeros(rows, queries, heads, dim, dtype=torch.float64)
    group = heads // k.shape[2]
    for n in range(rows):
        for t in range(queries):
            end = int(last[n, t]) + 1
            for h in range(heads):
                scores = (k[n, :end, h // group].double() @ q[n, t, h].double()) / math.sqrt(dim)
                out[n, t, h] = scores.softmax(0) @ v[n, :end, h // group].double()
    return out.flatten(2)


@pytest.mark.parametrize(("queries", "keys", "causal"), [(1, 7, True), (5, 11, True), (5, 11, False), (3, 3, True)])
def test_block_attention(queries: int, keys: int, causal: bool) -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(2, queries, 6, 10), torch.randn(2, keys, 2, 10), torch.randn(2, keys, 2, 10)
    ends = torch.tensor([keys, keys - (keys > queries)])
    starts = (ends - queries).unsqueeze(1)
    last = starts + torch.arange(queries) if causal else (ends - 1).unsqueeze(1).expand(2, queries)
    got = block_attention(q, k, v, last, 10**-0.5)
    assert torch.allclose(got.double(), attention_by_hand(q, k, v, last), atol=1e-5)


def test_block_attention_names_shapes_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="3 query heads over 2 KV heads"):
        block_attention(torch.zeros(1, 1, 3, 4), torch.zeros(1, 5, 2, 4), torch.zeros(1, 5, 2, 4), None, 1.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rms_norm(dtype: torch.dtype) -> None:
    x, weight = torch.randn(3, 17, dtype=dtype), torch.randn(17, dtype=dtype)
    wide = x.double()
    expected = wide / (wide.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * weight.double()
    tolerance = 1e-5 if dtype == torch.float32 else 5e-2
    assert torch.allclose(rms_norm(x, weight, 1e-5).double(), expected, atol=tolerance, rtol=tolerance)


def test_rope_rotates_pairs_half_a_head_apart() -> None:
    x = torch.randn(3, 2, 4)
    positions, inv_freq = torch.tensor([0, 5, 9]), torch.tensor([1.0, 0.1])
    cos, sin = rope_cos_sin(positions, inv_freq, 1.0)
    got = apply_rope(x, cos, sin)
    for t, position in enumerate(positions.tolist()):
        for i, frequency in enumerate(inv_freq.tolist()):
            pair = torch.view_as_complex(torch.stack((x[t, :, i], x[t, :, i + 2]), -1).contiguous())
            turned = pair * torch.polar(torch.ones(()), torch.tensor(position * frequency))
            assert torch.allclose(
                torch.view_as_complex(torch.stack((got[t, :, i], got[t, :, i + 2]), -1)), turned, atol=1e-5
            )


def test_rope_in_place_equals_rope() -> None:
    x, tables = torch.randn(3, 4, 6), torch.randn(2, 3, 6)
    expected = apply_rope(x[:, :3], *tables)
    apply_rope(x[:, :3], *tables, out=x[:, :3])
    assert torch.equal(x[:, :3], expected)


def test_query_scale_is_one_inside_the_original_context() -> None:
    scale = query_scale(torch.tensor([0, 63, 64, 200]), 0.1, 64)
    assert scale.tolist() == pytest.approx([1, 1, 1 + 0.1 * math.log(2), 1 + 0.1 * math.log(4)])


@pytest.mark.parametrize(
    ("threshold", "num_best", "expected"),
    [
        (0.9, 1, [False, True, False, True]),
        (0.99, 1, [False, True, False, False]),
        (math.inf, 2, [False, True, False, True]),
        (0.0, 1, [False, True, True, True]),
    ],
)
def test_confidence_commit(threshold: float, num_best: int, expected: list[bool]) -> None:
    confidence = torch.tensor([[1.0, 0.95, 0.2, 0.93]])
    masked = torch.tensor([[False, True, True, True]])
    got = confidence_commit(confidence, masked, torch.tensor([threshold]), torch.tensor([num_best]))
    assert got.tolist() == [expected]


def test_confidence_commit_breaks_ties_to_the_left() -> None:
    flat = torch.full((1, 5), 0.5)
    got = confidence_commit(flat, torch.ones(1, 5, dtype=torch.bool), torch.tensor([0.9]), torch.tensor([2]))
    assert got.tolist() == [[True, True, False, False, False]]


def test_prefix_verify_counts_the_agreed_prefix_and_one_more() -> None:
    block = torch.tensor([[9, 1, 2, 3], [9, 1, 2, 3], [9, 7, 2, 3], [9, 1, -1, -1], [9, -1, -1, -1]])
    verified = torch.tensor([[1, 2, 3, 4], [1, 2, 0, 4], [1, 2, 3, 4], [1, 5, -2, -2], [4, -2, -2, -2]])
    got = prefix_verify(verified, block, torch.tensor([4, 4, 4, 2, 1]))
    assert got.tolist() == [4, 3, 1, 2, 1]
