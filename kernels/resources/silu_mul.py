"""The configurations of SwiGLU's activation."""

from __future__ import annotations

import functools
from collections.abc import Iterator

from trimode.kernels.resources.cases import Case, meta, sizes
from trimode.kernels.silu_mul import silu_mul


def cases() -> Iterator[Case]:
    """Yields the calls to compile."""
    for label, model, dtype in sizes():
        gate_up = meta(4, 2 * model.intermediate, dtype=dtype)
        yield Case(op="silu_mul", label=label, call=functools.partial(silu_mul, gate_up))
