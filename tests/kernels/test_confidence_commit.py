"""Confidence commit: the best positions always, and every other one that is confident enough."""

from __future__ import annotations

import math

import pytest
import torch
from trimode.kernels.confidence_commit import confidence_commit, cuda, describe, reference
from trimode.kernels.cuda import runtime
from trimode.tests.kernels.numerics import normal


@pytest.mark.parametrize(
    ("threshold", "num_best", "expected"),
    [
        (0.9, 1, [False, True, False, True]),
        (0.99, 1, [False, True, False, False]),
        (math.inf, 2, [False, True, False, True]),
        (0.0, 1, [False, True, True, True]),
    ],
)
def test_confidence_commit(threshold: float, num_best: int, expected: list[bool]) -> None:
    confidence = torch.tensor([[1.0, 0.95, 0.2, 0.93]])
    masked = torch.tensor([[False, True, True, True]])
    got = confidence_commit(confidence, masked, torch.tensor([threshold]), torch.tensor([num_best]))
    assert got.tolist() == [expected]


def test_each_block_has_its_own_rule() -> None:
    confidence = torch.tensor([[0.5, 0.8, 0.6]]).repeat(2, 1)
    masked = torch.ones(2, 3, dtype=torch.bool)
    got = confidence_commit(confidence, masked, torch.tensor([0.55, math.inf]), torch.tensor([1, 1]))
    assert got.tolist() == [[False, True, True], [False, True, False]]


def test_ties_go_to_the_lower_position() -> None:
    flat = torch.full((1, 5), 0.5)
    got = confidence_commit(flat, torch.ones(1, 5, dtype=torch.bool), torch.tensor([0.9]), torch.tensor([2]))
    assert got.tolist() == [[True, True, False, False, False]]


def blocks(width: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Six blocks with ties, NaN, no masks, all masks; each with its own rule."""
    confidence = normal(6, width).sigmoid().to(dtype)
    confidence[1] = confidence[1].round(decimals=1)
    confidence[2] = 0.5
    confidence[3, ::3] = math.nan
    masked = normal(6, width, seed=1) > 0
    masked[2], masked[4], masked[5] = True, False, True
    threshold = torch.tensor([0.7, 0.3, 0.9, 0.6, 0.0, math.inf])
    num_best = torch.tensor([1, 3, width // 2 + 1, 2, 1, width + 5])
    return confidence, masked, threshold, num_best


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("width", [1, 2, 8, 31, 32, 65])
def test_on_a_gpu_as_the_reference(width: int, dtype: torch.dtype, gpu: torch.device) -> None:
    tensors = [tensor.to(gpu) for tensor in blocks(width, dtype)]
    assert describe(tensors[0]) == f"cuda, sm_{runtime.capability(gpu)}"
    assert torch.equal(confidence_commit(*tensors), reference.confidence_commit(*tensors))


def test_a_wide_block_on_a_gpu(gpu: torch.device) -> None:
    tensors = [tensor[1:3].contiguous().to(gpu) for tensor in blocks(1000, torch.float32)]
    assert torch.equal(confidence_commit(*tensors), reference.confidence_commit(*tensors))


def test_a_threshold_is_compared_in_the_dtype_of_the_confidences_on_a_gpu(gpu: torch.device) -> None:
    confidence = torch.tensor([[0.9, 0.9]], dtype=torch.bfloat16, device=gpu)  # 0.8984375
    masked = torch.ones(1, 2, dtype=torch.bool, device=gpu)
    threshold, num_best = torch.tensor([0.9], device=gpu), torch.ones(1, dtype=torch.int64, device=gpu)
    assert confidence_commit(confidence, masked, threshold, num_best).tolist() == [[True, True]]


def test_what_the_gpu_kernel_refuses_goes_to_the_reference(gpu: torch.device) -> None:
    tensors = [tensor.to(gpu) for tensor in blocks(8, torch.float32)]
    tensors[0] = tensors[0].repeat(1, 2)[:, ::2]
    assert cuda.supports(*tensors) == "an input is not contiguous"
    assert torch.equal(confidence_commit(*tensors), reference.confidence_commit(*tensors))
    assert cuda.supports(torch.zeros(1, 1025, device=gpu)) == "a block of 1025 is above 1024"
    empty = [tensor[:0].to(gpu) for tensor in blocks(8, torch.float32)]
    assert confidence_commit(*empty).shape == (0, 8)


@pytest.mark.parametrize(
    ("confidence", "masked", "rules"),
    [
        (torch.zeros(2, 3), torch.ones(2, 4, dtype=torch.bool), 2),
        (torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool), 1),
        (torch.zeros(2, 3), torch.ones(2, 3), 2),
        (torch.zeros(2, 3, dtype=torch.int64), torch.ones(2, 3, dtype=torch.bool), 2),
        (torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool, device="meta"), 2),
    ],
)
def test_what_does_not_fit_is_named(confidence: torch.Tensor, masked: torch.Tensor, rules: int) -> None:
    with pytest.raises(
        ValueError, match=r"confidence_commit: got confidence .* expected float \[R, B\], bool \[R, B\]"
    ):
        confidence_commit(confidence, masked, torch.ones(rules), torch.ones(rules).long())
