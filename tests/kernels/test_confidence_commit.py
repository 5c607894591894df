"""Confidence commit: the best positions always, and every other one that is confident enough."""

from __future__ import annotations

import math

import pytest
import torch
from trimode.kernels.confidence_commit import confidence_commit


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


@pytest.mark.parametrize(
    ("confidence", "masked", "rules"),
    [
        (torch.zeros(2, 3), torch.ones(2, 4, dtype=torch.bool), 2),
        (torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool), 1),
        (torch.zeros(2, 3), torch.ones(2, 3), 2),
    ],
)
def test_what_does_not_fit_is_named(confidence: torch.Tensor, masked: torch.Tensor, rules: int) -> None:
    with pytest.raises(ValueError, match=r"confidence_commit: got confidence .* expected \[R, B\], bool \[R, B\]"):
        confidence_commit(confidence, masked, torch.ones(rules), torch.ones(rules).long())
