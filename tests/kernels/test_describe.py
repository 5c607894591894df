"""Names what runs for a model, with the reason where it is not the fastest."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from trimode.kernels.describe import ModelSizes, describe_kernels
from trimode.kernels.linear import bf16, onednn
from trimode.tests.kernels.conftest import pretend

SIZES = ModelSizes(hidden=128, intermediate=256, num_heads=4, num_kv_heads=2, head_dim=32, vocab=400, page_size=16)
OPERATORS = [
    "best_token", "confidence_commit", "draw", "linear", "paged_attention", "prefix_verify", "rms_norm", "rope",
    "silu_mul",
]  # fmt: skip
SINGLE = {"confidence_commit", "draw", "prefix_verify"}
CPU = torch.device("cpu")


def test_every_operator_is_named(vector_lanes: int) -> None:
    got = describe_kernels(CPU, torch.float32, SIZES)
    assert list(got) == OPERATORS
    for name, text in got.items():
        assert text == (
            "reference: the only implementation for a CPU" if name in SINGLE else f"cpu, {vector_lanes} lanes"
        )


def test_without_llvmlite_the_reason_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, 0)
    got = describe_kernels(CPU, torch.float32, SIZES)
    assert {got[name] for name in OPERATORS if name not in SINGLE} == {"reference: no llvmlite"}


def test_sizes_that_do_not_fill_vectors_are_named(vector_lanes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "_has_bf16", lambda: False)
    got = describe_kernels(CPU, torch.bfloat16, dataclasses.replace(SIZES, intermediate=100, head_dim=20))
    refused = f"is no multiple of {vector_lanes}"
    assert got["paged_attention"] == f"reference: head_dim 20 {refused}"
    assert got["silu_mul"] == f"reference: 100 outputs are no multiple of {vector_lanes}"
    assert got["rms_norm"] == f"cpu, {vector_lanes} lanes"
    assert set(got["linear"].split("; ")) >= {
        bf16.describe(), f"reference: 100 inputs are no multiple of {vector_lanes}"
    }  # fmt: skip


@pytest.mark.usefixtures("vector_lanes")
def test_a_dtype_without_cpu_kernels_is_named() -> None:
    got = describe_kernels(CPU, torch.float16, SIZES)
    assert got["rope"] == "reference: no CPU kernel for torch.float16"
