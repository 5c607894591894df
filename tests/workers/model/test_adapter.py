"""The adapter's factors: the formula of LoRA, a rank of any size, rows that do not depend on each other."""

from __future__ import annotations

import pytest
import torch
from trimode.kernels import linear
from trimode.kernels.llvm.jit import num_lanes
from trimode.tests.workers.micro import MICRO
from trimode.workers.model.adapter import Adapter, load_adapter, open_adapter
from trimode.workers.model.checkpoint import WeightFiles, read_config

DTYPES = [torch.bfloat16, torch.float32]
NAME = "base_model.model.encoder.layers.0.self_attn.o_proj.lora_%s.weight"


def loaded(dtype: torch.dtype) -> tuple[WeightFiles, Adapter]:
    files, scale = open_adapter(MICRO / "linear_spec_lora", read_config(MICRO))
    return files, load_adapter(files, scale, 4, torch.empty(0, dtype=dtype))


def applied(adapter: Adapter, x: torch.Tensor) -> torch.Tensor:
    return linear.apply(linear.apply(x, adapter.a[0]), adapter.b[0])


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_factors_multiply_as_the_files_say(dtype: torch.dtype) -> None:
    files, adapter = loaded(dtype)
    x = torch.randn(9, 128, generator=torch.Generator().manual_seed(0)).to(dtype)
    exact = x.double() @ files.tensor(NAME % "A").double().T @ files.tensor(NAME % "B").double().T
    assert torch.allclose(applied(adapter, x).double(), exact, atol=0.05 if dtype == torch.bfloat16 else 1e-5)


@pytest.mark.skipif(not num_lanes(), reason="bitwise only with our CPU kernels")
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_does_not_depend_on_the_others(dtype: torch.dtype) -> None:
    _, adapter = loaded(dtype)
    x = torch.randn(9, 128, generator=torch.Generator().manual_seed(0)).to(dtype)
    together = applied(adapter, x)
    for row in range(9):
        assert torch.equal(applied(adapter, x[row : row + 1])[0], together[row])
