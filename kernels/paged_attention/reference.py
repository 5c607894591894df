"""Block attention over a KV cache: each row of the batch is causal or full (bidirectional) over its own chunk.

Knows nothing of pages: keys and values come padded. All inference masks of a tri-mode model are full or causal with an
offset, so one limit per query says everything (Nemotron-Labs-Diffusion, released remote code).

N = rows, T = queries per row, S = padded keys, H = query heads, K = KV heads, G = H / K, D = head dim.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F


def visible_keys(last_key_NT: torch.Tensor, num_keys: int, group: int, dtype: torch.dtype) -> torch.Tensor:
    """The mask of `masked_attention`, made once for all layers: 0 where query (n, t) sees the key, else -inf.

    Args:
        last_key_NT: int64 `[N, T]`: index of the last key each query sees.
        num_keys: S.
        group: G, query heads per KV head.
        dtype: that of the queries.

    Returns:
        `[N, 1, G * T, S]`.
    """
    hidden_NTS = torch.arange(num_keys, device=last_key_NT.device) > last_key_NT.unsqueeze(-1)
    mask_NTS = torch.zeros(hidden_NTS.shape, dtype=dtype, device=hidden_NTS.device).masked_fill_(hidden_NTS, -math.inf)
    return mask_NTS.repeat(1, group, 1).unsqueeze(1)


def block_attention(
    q_NTHD: torch.Tensor,
    k_NSKD: torch.Tensor,
    v_NSKD: torch.Tensor,
    last_key_NT: torch.Tensor | None,
    scale: float,
) -> torch.Tensor:
    """Softmax attention in which query (n, t) sees keys 0 .. last_key[n, t].

    Args:
        q_NTHD: queries `[N, T, H, D]`.
        k_NSKD: keys `[N, S, K, D]`, cache and chunk together; rows shorter than S are padded with finite values.
        v_NSKD: values `[N, S, K, D]`, same.
        last_key_NT: int64 `[N, T]`: index of the last key each query sees; its own position when causal, the chunk's
            last position when full. None: every query sees all S keys.
        scale: softmax scale.

    Returns:
        `[N, T, H * D]` in the dtype of q.

    Raises:
        ValueError: shapes that do not fit each other.
    """
    if last_key_NT is None:
        return masked_attention(q_NTHD, k_NSKD, v_NSKD, None, scale)
    mask = visible_keys(last_key_NT, k_NSKD.shape[1], q_NTHD.shape[2] // k_NSKD.shape[2], q_NTHD.dtype)
    return masked_attention(q_NTHD, k_NSKD, v_NSKD, mask, scale)


def masked_attention(
    q_NTHD: torch.Tensor, k_NSKD: torch.Tensor, v_NSKD: torch.Tensor, mask: torch.Tensor | None, scale: float
) -> torch.Tensor:
    """`block_attention` with the mask that `visible_keys` made; None when every query sees all S keys."""
    num_rows, num_queries, num_heads, head_dim = q_NTHD.shape
    num_kv_heads = k_NSKD.shape[2]
    if k_NSKD.shape != v_NSKD.shape or k_NSKD.shape[0] != num_rows or k_NSKD.shape[3] != head_dim:
        raise ValueError(f"block_attention: q {tuple(q_NTHD.shape)}, k {tuple(k_NSKD.shape)}, v {tuple(v_NSKD.shape)}")
    if num_heads % num_kv_heads:
        raise ValueError(f"block_attention: {num_heads} query heads over {num_kv_heads} KV heads")
    group = num_heads // num_kv_heads
    # The G query heads of a KV head become G * T queries of one head, so keys and values are never repeated.
    q_NKGTD = q_NTHD.view(num_rows, num_queries, num_kv_heads, group, head_dim).permute(0, 2, 3, 1, 4)
    q_NKQD = q_NKGTD.reshape(num_rows, num_kv_heads, group * num_queries, head_dim)
    o_NKQD = F.scaled_dot_product_attention(
        q_NKQD, k_NSKD.transpose(1, 2), v_NSKD.transpose(1, 2), attn_mask=mask, scale=scale
    )
    o_NKGTD = o_NKQD.view(num_rows, num_kv_heads, group, num_queries, head_dim)
    return o_NKGTD.permute(0, 3, 1, 2, 4).reshape(num_rows, num_queries, num_heads * head_dim)
