"""How plain weights are held in memory: the choice, its reason, and the same tokens either way."""

from __future__ import annotations

import pytest
import torch
from trimode.core.errors import ConfigError
from trimode.kernels.linear import Layout, compact, onednn
from trimode.tests.workers.conftest import micro_settings
from trimode.workers.model.weight_storage import choose_storage
from trimode.workers.runtime import Runtime

CPU = torch.device("cpu")
needs_cpu = pytest.mark.skipif(compact.missing() is not None, reason="no CPU with AVX512-BF16 and AVX512-VBMI")


@pytest.fixture
def able(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU whose kernels unpack 12 bits."""
    monkeypatch.setattr(compact, "missing", lambda: None)
    monkeypatch.setattr(onednn, "has_amx", lambda: False)


def chosen(device: torch.device = CPU, **settings: object) -> tuple[bool, str]:
    return choose_storage(micro_settings(**({"dtype": "bfloat16"} | settings)), device)


@pytest.mark.usefixtures("able")
def test_auto_takes_12_bits_on_a_cpu_that_unpacks_them() -> None:
    packed, reason = chosen()
    assert packed
    assert reason.startswith("packed12: a quarter less to read")
    assert chosen(weight_storage="packed12") == (True, "packed12: asked for")
    assert chosen(weight_storage="bf16") == (False, "bf16: asked for")


@pytest.mark.usefixtures("able")
def test_auto_says_why_it_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen(torch.device("cuda"))[1] == "bfloat16: 12-bit weights have no kernel for cuda"
    assert chosen(dtype="float32") == (False, "float32: 12-bit weights are made from bfloat16 only, got float32")
    monkeypatch.setattr(onednn, "has_amx", lambda: True)
    assert chosen(batch_invariant=False) == (False, "bf16: this CPU has AMX")
    monkeypatch.setattr(compact, "missing", lambda: "a CPU without AVX512-BF16 and AVX512-VBMI")
    assert chosen() == (False, "bfloat16: a CPU without AVX512-BF16 and AVX512-VBMI")


def test_what_cannot_be_done_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="weight_storage: got 'fp4'; valid: auto, bf16, packed12"):
        chosen(weight_storage="fp4")
    monkeypatch.setattr(compact, "missing", lambda: "no llvmlite")
    with pytest.raises(ConfigError, match=r"weight_storage: got packed12; valid here: auto, bf16 \(no llvmlite\)"):
        chosen(weight_storage="packed12")


@needs_cpu
def test_a_worker_with_12_bits_gives_the_same_tokens_from_less_memory() -> None:
    replies, sizes = [], []
    for storage in ("bf16", "packed12"):
        runtime = Runtime(micro_settings(dtype="bfloat16", weight_storage=storage, batch_invariant=True))
        sequence = runtime.submit(
            "one", {"prompt_ids": [5, 6, 7], "ignore_eos": True, "mode": "ar", "max_new_tokens": 20}
        )
        while sequence.state.finish_reason is None:
            runtime.engine.step()
        replies.append(sequence.state.output)
        model = runtime.engine.model
        sizes.append(model.num_weight_bytes)
        said = model.describe_kernels()["weight_storage"]
        if storage == "packed12":
            layouts = {matrix.layout for matrix in model._matrices()}
            assert Layout.COMPACT in layouts
            assert said.startswith("packed12: asked for; ")
            assert said.endswith("bits a weight")
    assert replies[0] == replies[1]
    assert sizes[1] < sizes[0]
