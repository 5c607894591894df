"""A weight and its product, whichever way it is kept: our own packing, oneDNN's or plain."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from trimode.kernels.llvm.jit import num_lanes
from trimode.tests.workers.micro import MICRO
from trimode.workers.model import linear
from trimode.workers.model.adapter import load_adapter, open_adapter
from trimode.workers.model.checkpoint import read_config
from trimode.workers.model.linear import Linear

DTYPES = [torch.bfloat16, torch.float32]


@pytest.fixture(params=["own", "onednn", "plain"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "onednn" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this CPU has no bfloat16 instructions")
    monkeypatch.setattr(linear, "_amx", lambda: request.param == "onednn")
    if request.param == "plain":
        monkeypatch.setattr(linear, "packs", lambda _: False)
        monkeypatch.setattr(linear, "_onednn_has_bf16", lambda: False)
    return str(request.param)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(96, 64), (72, 48), (33, 40)])
@pytest.mark.usefixtures("way")
def test_product_and_sum(shape: tuple[int, int], dtype: torch.dtype) -> None:
    chance = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=chance).to(dtype)
    own = Linear(weight.clone())
    for rows in (0, 1, 2, 31, 64):
        x, residual = (torch.randn(rows, width, generator=chance).to(dtype) for width in (shape[1], shape[0]))
        exact, before = x.double() @ weight.double().T, residual.clone()
        plain = F.linear(x, weight)
        assert (own(x) - exact).abs().sum() <= 2 * (plain - exact).abs().sum() + 1e-9
        exact += residual.double()
        assert (own(x, residual) - exact).abs().sum() <= 2 * (plain + residual - exact).abs().sum() + 1e-9
        assert torch.equal(residual, before)


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_second_copy(way: str, dtype: torch.dtype) -> None:
    weight = torch.zeros(64, 32, dtype=dtype)
    own = Linear(weight)
    assert own.nbytes == weight.nbytes
    kept = own._weight
    assert (kept is weight) == (way == "plain" or (way == "onednn" and not kept.is_mkldnn and kept.dim() == 2))


def test_rows_of_a_wider_tensor() -> None:
    weight = torch.randn(96, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    wide = torch.randn(5, 128, generator=torch.Generator().manual_seed(1)).bfloat16()
    assert torch.equal(Linear(weight)(wide[:, :64]), Linear(weight)(wide[:, :64].contiguous()))


@pytest.mark.skipif(not num_lanes(), reason="bitwise only with our CPU kernels")
@pytest.mark.parametrize("dtype", DTYPES)
def test_an_adapter_of_any_rank_treats_rows_alike(dtype: torch.dtype) -> None:
    files, scale = open_adapter(MICRO / "linear_spec_lora", read_config(MICRO))
    adapter = load_adapter(files, scale, 4, torch.empty(0, dtype=dtype))
    x = torch.randn(9, 128, generator=torch.Generator().manual_seed(0)).to(dtype)
    together = adapter.b[0](adapter.a[0](x))
    exact = x.double() @ files.tensor(tensor_of("A")).double().T @ files.tensor(tensor_of("B")).double().T
    assert torch.allclose(together.double(), exact, atol=0.05 if dtype == torch.bfloat16 else 1e-5)
    for row in range(9):
        assert torch.equal(adapter.b[0](adapter.a[0](x[row : row + 1]))[0], together[row])


def tensor_of(side: str) -> str:
    return f"base_model.model.encoder.layers.0.self_attn.o_proj.lora_{side}.weight"
