"""Attention whose rows are known on the device only, in plain torch: what a captured graph runs without a GPU kernel.

Every row is read up to the bound of its pages, so the time does not depend on how many keys there are.

N = rows, T = queries of all rows, S = keys up to the bound, H = query heads, K = KV heads, G = H / K, D = head dim.
"""

from __future__ import annotations

import torch
from trimode.kernels.paged_attention.ragged import Ragged


def paged_attention(q_THD: torch.Tensor, kv_PSKD: torch.Tensor, ragged: Ragged, scale: float) -> torch.Tensor:
    """Softmax attention of every query over the keys of its row, `[T, H * D]` in the dtype of q; NaN without a row."""
    num_tokens, num_heads, head_dim = q_THD.shape
    num_kv_heads = kv_PSKD.shape[2] // 2
    row_T, visible_TS = _visible(ragged, num_tokens)
    own_TSKD = kv_PSKD[ragged.page_table_NP].flatten(1, 2)[row_T].float()
    k_TSKD, v_TSKD = own_TSKD.chunk(2, dim=2)
    q_TKGD = q_THD.reshape(num_tokens, num_kv_heads, num_heads // num_kv_heads, head_dim).float()
    hidden_TKGS = ~visible_TS[:, None, None]
    # A key that is not seen may hold anything, and 0 * NaN is NaN.
    v_TSKD = v_TSKD.masked_fill(~visible_TS[:, :, None, None], 0.0)
    scores_TKGS = torch.einsum("tkgd,tskd->tkgs", q_TKGD, k_TSKD) * scale
    weights_TKGS = scores_TKGS.masked_fill(hidden_TKGS, float("-inf")).softmax(dim=-1)
    return torch.einsum("tkgs,tskd->tkgd", weights_TKGS, v_TSKD).reshape(num_tokens, -1).to(q_THD.dtype)


def _visible(ragged: Ragged, num_tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the row of each query, some row where it has none, and bool `[T, S]`: True where it sees the key."""
    starts_N1, device = ragged.query_start_N1, ragged.query_start_N1.device
    num_rows, num_keys = ragged.page_table_NP.shape[0], ragged.page_table_NP.shape[1] * ragged.page_size
    query_T = torch.arange(num_tokens, dtype=starts_N1.dtype, device=device)
    row_T = torch.searchsorted(starts_N1[1:], query_T, right=True)
    has_row_T = row_T < num_rows
    row_T = row_T.clamp(max=num_rows - 1)
    key_S = torch.arange(num_keys, device=device)
    visible_TS = (key_S <= ragged.last_key_T.unsqueeze(1)) & has_row_T.unsqueeze(1)
    if ragged.mask_word_T is not None:
        num_queries_N = starts_N1[1:] - starts_N1[:-1]
        own_TS = key_S - (ragged.num_keys_N - num_queries_N)[row_T].unsqueeze(1)
        bit_TS = (ragged.mask_word_T.unsqueeze(1) >> own_TS.clamp(0, 63)) & 1
        visible_TS = visible_TS & ((own_TS < 0) | (bit_TS != 0))
    return row_T, visible_TS
