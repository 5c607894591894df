"""A loaded micro model for the worker tests.

Nothing here imports torch before a test asks for the model, so that the tests of workers/decode run without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from trimode.core.protocol import WorkerSettings
from trimode.tests.workers.micro import MICRO

if TYPE_CHECKING:
    from trimode.workers.runtime import Runtime


@pytest.fixture(scope="session")
def micro() -> Runtime:
    """The micro model with its adapter, float32, eight slots. Tests must leave its engine empty."""
    import torch
    from trimode.workers.runtime import Runtime

    torch.set_num_threads(1)
    return Runtime(micro_settings())


def micro_settings(**changes: object) -> WorkerSettings:
    """Settings of the micro model."""
    fields: dict[str, object] = {
        "model": str(MICRO),
        "lora": str(MICRO / "linear_spec_lora"),
        "dtype": "float32",
        "device": "cpu",
        "max_num_seqs": 8,
        "kv_cache_gb": 0.05,
    }
    return WorkerSettings(**(fields | changes))  # type: ignore[arg-type]
