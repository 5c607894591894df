"""RMSNorm's configurations."""

from __future__ import annotations

import functools
from collections.abc import Iterator

from trimode.kernels.resources.cases import Case, meta, sizes
from trimode.kernels.rms_norm import rms_norm


def cases() -> Iterator[Case]:
    """Yields the calls to compile."""
    for label, model, dtype in sizes():
        x, weight = meta(4, model.hidden, dtype=dtype), meta(model.hidden, dtype=dtype)
        yield Case(op="rms_norm", label=label, call=functools.partial(rms_norm, x, weight, 1e-5))
