"""Cases of paged attention beside torch's SDPA on the same keys and values without pages.

N = rows, T = queries of a row, S = keys of a row, H = query heads, K = KV heads, D = head dim, P = pages.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch.nn.attention.bias import causal_lower_right
from trimode.bench.gpu.comparison import Case
from trimode.bench.gpu.context import Bench
from trimode.bench.gpu.plan import Attention
from trimode.bench.gpu.timing import Call
from trimode.kernels.paged_attention import Row, describe_rows, paged_attention
from trimode.workers.model.kv_cache import PAGE_SIZE, pages_for


def attention_cases(bench: Bench) -> Iterator[Case]:
    """Yields one case per kind of row, number of rows and length."""
    shape = next(iter(bench.plan.shapes.values()))
    heads, kv_heads, head_dim = (shape[k] for k in ("num_attention_heads", "num_key_value_heads", "head_dim"))
    for size in bench.plan.attention:
        queries = size.rows * size.queries
        seen = size.queries * size.keys
        if size.causal:
            seen -= size.queries * (size.queries - 1) // 2
        elements = 2 * size.rows * size.keys * kv_heads * head_dim + 2 * queries * heads * head_dim
        yield Case(
            name="paged_attention",
            num_bytes=bench.plan.dtype.itemsize * elements,
            flop=4.0 * size.rows * seen * heads * head_dim,
            make=functools.partial(make, bench, size, (heads, kv_heads, head_dim)),
            conditions={"rows of": size.what, "streams": size.rows, "queries": size.queries, "keys": size.keys},
        )


def make(bench: Bench, size: Attention, heads: tuple[int, int, int]) -> dict[str, Call]:
    """Returns one set of inputs: pages in random order for us, dense tensors for SDPA."""
    num_heads, num_kv_heads, head_dim = heads
    device, dtype = bench.device, bench.plan.dtype
    each = pages_for(size.keys)
    order = torch.randperm(size.rows * each).tolist()
    first = size.keys - size.queries
    last_keys = range(first, size.keys) if size.causal else [size.keys - 1] * size.queries
    rows = [
        Row(pages=order[number * each : (number + 1) * each], num_keys=size.keys, last_keys=last_keys)
        for number in range(size.rows)
    ]
    ragged = describe_rows(rows, PAGE_SIZE, device)
    kv_PSKD = torch.randn((len(order), PAGE_SIZE, 2 * num_kv_heads, head_dim), device=device, dtype=dtype)
    q_THD = torch.randn((size.rows * size.queries, num_heads, head_dim), device=device, dtype=dtype)
    scale = head_dim**-0.5

    q_NHTD = q_THD.view(size.rows, size.queries, num_heads, head_dim).transpose(1, 2).contiguous()
    k_NKSD, v_NKSD = torch.randn((2, size.rows, num_kv_heads, size.keys, head_dim), device=device, dtype=dtype)
    bias = causal_lower_right(size.queries, size.keys) if size.causal and size.queries > 1 else None

    def sdpa() -> torch.Tensor:
        return F.scaled_dot_product_attention(q_NHTD, k_NKSD, v_NKSD, attn_mask=bias, scale=scale, enable_gqa=True)

    return {"trimode": lambda: paged_attention(q_THD, kv_PSKD, ragged, scale), "SDPA": sdpa}
