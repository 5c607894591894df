"""The quoted results: their own means, and which checkpoints they belong to."""

from __future__ import annotations

import pytest
from trimode.pipeline.analysis.published import BENCHMARKS, checkpoint_size, quoted


@pytest.mark.parametrize(
    ("path", "size"),
    [
        ("nvidia/Nemotron-Labs-Diffusion-8B", "8B"),
        ("/models/Nemotron-Labs-Diffusion-14B/", "14B"),
        ("/x/nemotron-labs-diffusion-3b", "3B"),
        ("nvidia/Nemotron-Labs-Diffusion-3B-Base", None),
        ("nvidia/Nemotron-Labs-Diffusion-VLM-8B", None),
        ("assets/demo_model", None),
    ],
)
def test_only_released_instruct_checkpoints_are_known(path: str, size: str | None) -> None:
    assert checkpoint_size(path) == size


@pytest.mark.parametrize("size", ["3B", "8B", "14B"])
@pytest.mark.parametrize("label", ["ar", "dlm", "linear_spec+lora"])
def test_rows_average_to_the_published_mean(size: str, label: str) -> None:
    row = quoted(size, label)
    assert row is not None
    assert set(row.accuracy) == set(BENCHMARKS)
    assert sum(row.accuracy.values()) / 10 == pytest.approx(row.mean_accuracy, abs=0.06)


def test_per_task_tpf_is_published_for_linear_spec_only() -> None:
    with_adapter, diffusion = quoted("8B", "linear_spec+lora"), quoted("8B", "dlm")
    assert with_adapter is not None
    assert diffusion is not None
    assert with_adapter.tpf["math-500"] == 7.36
    assert diffusion.tpf == {}
    assert quoted("70B", "ar") is None
