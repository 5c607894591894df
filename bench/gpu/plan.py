"""What is measured: on a GPU, and in a dry run that only shows that everything runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from trimode.bench.random_checkpoint import BENCH_SHAPE, TINY_SHAPE

_RELEASED = BENCH_SHAPE | {"vocab_size": 131072, "num_attention_heads": 32, "num_key_value_heads": 8}
SHAPES: dict[str, dict[str, Any]] = {
    "3B": _RELEASED | {"hidden_size": 3072, "intermediate_size": 9216, "num_hidden_layers": 26},
    "8B": _RELEASED | {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 34},
}
"""The config.json of the released checkpoints, as far as it sets sizes."""
TINY = TINY_SHAPE | {"hidden_size": 128, "intermediate_size": 128, "num_hidden_layers": 1, "head_dim": 32}
ACCEPTED = 6.82
"""Tokens per cycle of linear_spec with its adapter (Nemotron-Labs-Diffusion paper, SPEED-Bench, draft of 31)."""
DLM_TPF = 2.57
"""Tokens per forward of dlm (the same paper, mean over ten tasks)."""
PLAIN = "bf16"
"""Name of the scheme without quantisation; in a dry run the numbers are float16 all the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """One call of paged_attention."""

    what: str
    rows: int
    queries: int
    """Per row."""
    keys: int
    """Per row, those of the queries included."""
    causal: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Sizes and repeats of every section."""

    dry: bool
    dtype: torch.dtype
    shapes: Mapping[str, Mapping[str, Any]]
    """The first one is measured in full, the others as long as time is left."""
    schemes: tuple[str, ...] = (PLAIN, "fp8", "w4a16")
    context: int = 512
    """Prompt tokens before anything is measured."""
    streams: tuple[int, ...] = (1, 8, 32, 128)
    step_tokens: tuple[int, ...] = (1, 8, 16, 32, 64)
    most_tokens: int = 1024
    """Steps of more tokens are measured for the first model without quantisation only: they are bound by operations."""
    variant_points: tuple[tuple[int, int], ...] = ((1, 1), (1, 32), (32, 1), (32, 32))
    """(streams, tokens) at which batch invariance and CUDA graphs are switched."""
    dlm_block: int = 8
    spec_block: int = 32
    copy_bytes: int = 4 << 30
    matmul_size: int = 8192
    rows: tuple[int, ...] = (1, 32, 128, 2048)
    """Rows of the pointwise operators."""
    logit_rows: tuple[int, ...] = (1, 32, 256)
    product_rows: tuple[int, ...] = (1, 8, 32, 64, 512)
    crossover_rows: tuple[int, ...] = (1, 8, 16, 32, 48, 64)
    """Rows at which the own kernel for few rows is compared with cuBLAS."""
    attention: tuple[Attention, ...]
    fill_bytes: int = 512 << 20
    """Inputs rotate until they exceed this, so that no cache serves them."""
    spend_s: float = 0.25
    """Seconds per number."""
    auto_streams: tuple[int, ...] = (1, 4, 16, 32, 64)
    auto_tokens: int = 800
    """Tokens of a measurement of auto with one stream; with more, times their root."""
    auto_length: int = 288
    """Tokens of an answer."""
    auto_rounds: int = 3
    demo_requests: int = 12
    demo_tokens: int = 128


def _attention(streams: tuple[int, ...], context: int, long: int, block: int, prefill: int) -> tuple[Attention, ...]:
    found = [Attention(what="decode", rows=n, queries=1, keys=context + 1, causal=True) for n in streams]
    found += [Attention(what="decode", rows=n, queries=1, keys=long, causal=True) for n in streams[:2]]
    found += [Attention(what="draft", rows=n, queries=block, keys=context + block, causal=False) for n in streams]
    found += [Attention(what="verify", rows=n, queries=block, keys=context + block, causal=True) for n in streams]
    found += [Attention(what="verify", rows=1, queries=block, keys=long, causal=True)]
    found += [Attention(what="prefill", rows=1, queries=prefill, keys=8 * prefill, causal=True)]
    return tuple(found)


REAL = Plan(
    dry=False,
    dtype=torch.bfloat16,
    shapes={"8B": SHAPES["8B"], "3B": SHAPES["3B"]},
    attention=_attention((1, 8, 32, 128), 512, 32768, 32, 512),
)
DRY = Plan(
    dry=True,
    dtype=torch.float16,
    shapes={"8B": TINY, "3B": TINY},
    context=20,
    streams=(1, 2),
    step_tokens=(1, 8),
    variant_points=((1, 1), (1, 8)),
    dlm_block=8,
    spec_block=8,
    copy_bytes=1 << 20,
    matmul_size=128,
    rows=(1, 3),
    logit_rows=(1, 3),
    product_rows=(1, 3),
    crossover_rows=(1, 2),
    attention=_attention((1, 2), 20, 40, 8, 16),
    fill_bytes=0,
    spend_s=0.0,
    auto_streams=(1, 2),
    auto_tokens=20,
    auto_length=40,
    auto_rounds=1,
    demo_requests=2,
    demo_tokens=8,
)
