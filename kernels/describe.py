"""Names the implementation of every operator for a device, a dtype and the sizes of a model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from trimode.kernels import (
    best_token,
    confidence_commit,
    draw,
    linear,
    paged_attention,
    prefix_verify,
    rms_norm,
    rope,
    silu_mul,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSizes:
    """The sizes of a model that decide which kernels take its tensors."""

    hidden: int
    intermediate: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab: int
    page_size: int
    """Tokens per page of the KV cache."""


def describe_kernels(
    device: torch.device, dtype: torch.dtype, sizes: ModelSizes, *, batch_invariant: bool = False
) -> dict[str, str]:
    """Returns per operator what runs and why, for example `{"rope": "cpu, 16 lanes", "linear": "reference: ..."}`.

    An operator that the model uses with several shapes has one answer per shape if they differ. `batch_invariant`: as
    in `linear.prepare`.
    """

    def sample(*shape: int, dtype: torch.dtype = dtype) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device=device)

    num_heads, num_kv_heads, head_dim = sizes.num_heads, sizes.num_kv_heads, sizes.head_dim
    logits = sample(1, sizes.vocab, dtype=torch.float32)
    cache = sample(1, sizes.page_size, 2 * num_kv_heads, head_dim)
    inputs = sorted({sizes.hidden, sizes.intermediate, num_heads * head_dim})
    products = {linear.describe(sample(1, width), batch_invariant=batch_invariant): None for width in inputs}
    return {
        "best_token": best_token.describe(logits),
        "confidence_commit": confidence_commit.describe(sample(1, 32, dtype=torch.float32)),
        "draw": draw.describe(logits),
        "linear": "; ".join(products),
        "paged_attention": paged_attention.describe(sample(1, num_heads, head_dim), cache),
        "prefix_verify": prefix_verify.describe(sample(1, 32, dtype=torch.int64)),
        "rms_norm": rms_norm.describe(sample(1, sizes.hidden), sample(sizes.hidden)),
        "rope": rope.describe(sample(1, num_heads + 2 * num_kv_heads, head_dim), cache.flatten(0, 1)),
        "silu_mul": silu_mul.describe(sample(1, 2 * sizes.intermediate)),
    }
