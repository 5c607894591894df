"""Rotary embedding, NeoX half-split, and the store into the cache in plain torch.

T = tokens, N = heads of a token (queries, keys, values), K = KV heads, D = head dim, S = slots of the cache.
"""

from __future__ import annotations

import torch


def rotate_and_store(
    qkv_TND: torch.Tensor, cos_TD: torch.Tensor, sin_TD: torch.Tensor, kv_SKD: torch.Tensor, slots_T: torch.Tensor,
    query_scale_T: torch.Tensor | None = None,
) -> None:  # fmt: skip
    """Rotates the query and key heads in place, scales the queries, then copies keys and values to their slots."""
    num_heads = qkv_TND.shape[1] - kv_SKD.shape[1]
    rotated = qkv_TND[:, : num_heads + kv_SKD.shape[1] // 2]
    rotate(rotated, cos_TD, sin_TD, out=rotated)
    if query_scale_T is not None:
        qkv_TND[:, :num_heads].mul_(query_scale_T.view(-1, 1, 1))
    kv_SKD.index_copy_(0, slots_T, qkv_TND[:, num_heads:])


def rotate(
    x_THD: torch.Tensor, cos_TD: torch.Tensor, sin_TD: torch.Tensor, out: torch.Tensor | None = None
) -> torch.Tensor:
    """Returns the heads of x `[T, heads, D]` rotated by cos and sin `[T, D]`, written to `out` (which may be x)."""
    first, second = x_THD.chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1).mul_(sin_TD.unsqueeze(1))
    return torch.mul(x_THD, cos_TD.unsqueeze(1), out=out).add_(turned)
