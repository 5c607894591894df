"""Attention over a paged cache in plain torch: rows of like size together, their pages gathered, one masked call each.

All inference masks of a tri-mode model are full or causal with an offset (Nemotron-Labs-Diffusion, released remote
code), so one limit per query describes them; mask words add the trees of a draft.

N = rows, T = queries (of all rows, or per row in a group), S = padded keys, H = query heads, K = KV heads, G = H / K,
D = head dim, P = pages.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from trimode.kernels.paged_attention.ragged import Ragged, Row


@dataclass(frozen=True, slots=True, kw_only=True)
class _Group:
    """Consecutive rows with the same number of queries and about as many keys: one attention call."""

    first_token: int
    num_rows: int
    num_queries: int
    """Per row."""
    num_keys: int
    """Of the longest row."""
    pages_NP: torch.Tensor
    first_page: int | None
    """Set if the group is one row whose pages are consecutive: its keys are then a view, not a gather."""
    mask: torch.Tensor | None
    """`[N, 1, G * T, S]`: 0 where the query sees the key, else -inf. None if every query sees all keys."""


def paged_attention(q_THD: torch.Tensor, kv_PSKD: torch.Tensor, ragged: Ragged, scale: float) -> torch.Tensor:
    """Softmax attention of every query over the keys of its row, `[T, H * D]` in the dtype of q."""
    heads_per_kv_head = 2 * q_THD.shape[1] // kv_PSKD.shape[2]
    groups = ragged.derive(_groups, heads_per_kv_head, q_THD.dtype)
    attended = []
    for group in groups:
        end = group.first_token + group.num_rows * group.num_queries
        q_NTHD = q_THD[group.first_token : end].view(group.num_rows, group.num_queries, *q_THD.shape[1:])
        k_NSKD, v_NSKD = _keys(kv_PSKD, group, ragged)[:, : group.num_keys].chunk(2, dim=2)
        attended.append(masked_attention(q_NTHD, k_NSKD, v_NSKD, group.mask, scale).flatten(0, 1))
    if not attended:
        return q_THD.new_empty((0, q_THD.shape[1] * q_THD.shape[2]))
    return attended[0] if len(attended) == 1 else torch.cat(attended)


def masked_attention(
    q_NTHD: torch.Tensor, k_NSKD: torch.Tensor, v_NSKD: torch.Tensor, mask: torch.Tensor | None, scale: float
) -> torch.Tensor:
    """Attention of rows of equal size; keys beyond a row's own must be finite.

    Args:
        q_NTHD: queries `[N, T, H, D]`.
        k_NSKD: keys `[N, S, K, D]`.
        v_NSKD: values `[N, S, K, D]`.
        mask: `[N, 1, G * T, S]`, added to the scores; None if every query sees all S keys.
        scale: factor of the scores.

    Returns:
        `[N, T, H * D]` in the dtype of q.
    """
    num_rows, num_queries, num_heads, head_dim = q_NTHD.shape
    num_kv_heads = k_NSKD.shape[2]
    group = num_heads // num_kv_heads
    # The G query heads of a KV head become G * T queries of one head, so keys and values are never repeated.
    q_NKGTD = q_NTHD.view(num_rows, num_queries, num_kv_heads, group, head_dim).permute(0, 2, 3, 1, 4)
    q_NKQD = q_NKGTD.reshape(num_rows, num_kv_heads, group * num_queries, head_dim)
    o_NKQD = F.scaled_dot_product_attention(
        q_NKQD, k_NSKD.transpose(1, 2), v_NSKD.transpose(1, 2), attn_mask=mask, scale=scale
    )
    o_NKGTD = o_NKQD.view(num_rows, num_kv_heads, group, num_queries, head_dim)
    return o_NKGTD.permute(0, 3, 1, 2, 4).reshape(num_rows, num_queries, num_heads * head_dim)


def _groups(ragged: Ragged, heads_per_kv_head: int, dtype: torch.dtype) -> list[_Group]:
    """The groups of a step with their masks, for all layers.

    Rows of a group differ by at most a factor of two in pages, so padding at most doubles a call.
    """

    def size(numbered: tuple[int, Row]) -> tuple[int, int]:
        row = numbered[1]
        return len(row.last_keys), (-(-row.num_keys // ragged.page_size) - 1).bit_length()

    groups, first_token = [], 0
    for (num_queries, _), members in itertools.groupby(enumerate(ragged.rows), size):
        numbers, rows = zip(*members, strict=True)
        if not num_queries:
            continue
        num_keys = max(row.num_keys for row in rows)
        num_pages = -(-num_keys // ragged.page_size)
        pages = list(rows[0].pages[:num_pages])
        consecutive = len(rows) == 1 and pages == list(range(pages[0], pages[0] + num_pages))
        group = _Group(
            first_token=first_token,
            num_rows=len(rows),
            num_queries=num_queries,
            num_keys=num_keys,
            pages_NP=ragged.page_table_NP[numbers[0] : numbers[-1] + 1, :num_pages],
            first_page=pages[0] if consecutive else None,
            mask=None,
        )
        if any(row.mask_words is not None or min(row.last_keys) < num_keys - 1 for row in rows):
            num_keys_N = ragged.num_keys_N[numbers[0] : numbers[-1] + 1]
            hidden_NTS = _hidden(ragged, group, num_keys_N)
            mask_NTS = torch.zeros(hidden_NTS.shape, dtype=dtype, device=hidden_NTS.device)
            mask_NTS.masked_fill_(hidden_NTS, -math.inf)
            group = dataclasses.replace(group, mask=mask_NTS.repeat(1, heads_per_kv_head, 1).unsqueeze(1))
        groups.append(group)
        first_token += len(rows) * num_queries
    return groups


def _hidden(ragged: Ragged, group: _Group, num_keys_N: torch.Tensor) -> torch.Tensor:
    """bool `[N, T, S]`: True where the query does not see the key."""
    tokens = slice(group.first_token, group.first_token + group.num_rows * group.num_queries)
    keys_S = torch.arange(group.num_keys, device=num_keys_N.device)
    last_key_NT = ragged.last_key_T[tokens].view(group.num_rows, group.num_queries)
    hidden_NTS = keys_S > last_key_NT.unsqueeze(-1)
    if ragged.mask_word_T is not None:
        word_NT = ragged.mask_word_T[tokens].view(group.num_rows, group.num_queries)
        own_NS = keys_S - (num_keys_N - group.num_queries).unsqueeze(1)
        bit_NTS = (word_NT.unsqueeze(-1) >> own_NS.clamp(0, 63).unsqueeze(1)) & 1
        hidden_NTS = hidden_NTS | ((own_NS >= 0).unsqueeze(1) & (bit_NTS == 0))
    return hidden_NTS


def _keys(kv_PSKD: torch.Tensor, group: _Group, ragged: Ragged) -> torch.Tensor:
    """Keys and values of a group, `[N, P * S, 2 * K, D]`; a gathered result is valid until the next call."""
    if group.first_page is not None:
        return kv_PSKD[group.first_page : group.first_page + group.pages_NP.shape[1]].flatten(0, 1).unsqueeze(0)
    scratch = ragged.derive(_scratch, kv_PSKD.shape[1:], kv_PSKD.dtype, kv_PSKD.device)
    index = group.pages_NP.flatten()
    found = torch.index_select(kv_PSKD, 0, index, out=scratch[: index.shape[0]])
    return found.view(group.num_rows, -1, *found.shape[2:])


def _scratch(ragged: Ragged, page_shape: torch.Size, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Room for the pages of all rows, for all layers: fresh memory costs a page fault each 4 KB in every layer."""
    return torch.empty((ragged.page_table_NP.numel(), *page_shape), dtype=dtype, device=device)
