"""The configurations that are compiled: operators called with the shapes of real models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from trimode.kernels.describe import ModelSizes

MODELS = {
    "3B": ModelSizes(
        hidden=3072, intermediate=9216, num_heads=32, num_kv_heads=8, head_dim=128, vocab=131072, page_size=16
    ),
    "8B": ModelSizes(
        hidden=4096, intermediate=14336, num_heads=32, num_kv_heads=8, head_dim=128, vocab=131072, page_size=16
    ),
    "14B": ModelSizes(
        hidden=5120, intermediate=16384, num_heads=32, num_kv_heads=8, head_dim=128, vocab=131072, page_size=16
    ),
    "demo": ModelSizes(hidden=192, intermediate=512, num_heads=6, num_kv_heads=2, head_dim=32, vocab=944, page_size=16),
}
"""Sizes of the released checkpoints and of the bundled demo model, from their config.json."""
DTYPES = (torch.bfloat16, torch.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One call of an operator, to be compiled and not run."""

    op: str
    label: str
    """What distinguishes it from the operator's other cases, for example `8B bfloat16 32 rows`."""
    call: Callable[[], object]
    """Calls the operator with tensors on the device `meta`."""
    needs_mma: bool = False
    """True if its products must run on the matrix units."""
    streaming: tuple[str, ...] = ()
    """Names of its kernels that must use the newest matrix instructions of the chip and copies of 16 bytes."""
    without_mma: tuple[str, ...] = ()
    """Names of kernels of the call that multiply no matrices."""


def meta(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    """Returns a tensor without memory."""
    return torch.empty(shape, dtype=dtype, device="meta")


def sizes() -> Iterator[tuple[str, ModelSizes, torch.dtype]]:
    """Yields every model in every dtype, with a name for both."""
    for name, model in MODELS.items():
        for dtype in DTYPES:
            yield f"{name} {str(dtype).removeprefix('torch.')}", model, dtype
