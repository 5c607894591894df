"""Argmax: the first of equal values in the CPU kernel, an index of the row whatever the row holds."""

from __future__ import annotations

import math

import pytest
import torch
from trimode.kernels.argmax import argmax, describe
from trimode.tests.kernels.numerics import normal


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("width", [1, 16, 17, 944, 40001])
def test_the_index_of_the_largest_value(width: int, lanes: int) -> None:
    values = normal(9, width + 5)[:, :width]
    values[1] = -math.inf
    values[4, -1] = 9.0
    values[5, 0] = math.inf
    assert describe(values).startswith("cpu") == (0 < lanes <= width)
    got = argmax(values)
    assert got.dtype == torch.int64
    assert torch.equal(values.gather(1, got.unsqueeze(1))[:, 0], values.amax(dim=1))


def test_the_first_of_equal_values(vector_lanes: int) -> None:
    values = normal(3, 944)
    values[0] = 0.0
    values[1, [3, 943, 472]] = 9.0
    assert describe(values).startswith(f"cpu, {vector_lanes}")
    assert argmax(values)[:2].tolist() == [0, 3]


@pytest.mark.usefixtures("lanes")
def test_a_row_of_nan_gives_an_index_of_the_row() -> None:
    got = argmax(torch.full((4, 33), math.nan))
    assert ((got >= 0) & (got < 33)).all()


@pytest.mark.usefixtures("lanes")
@pytest.mark.parametrize("values", [torch.zeros(5), torch.zeros(2, 0), torch.zeros(2, 3, dtype=torch.int64)])
def test_what_does_not_fit_is_named(values: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"argmax: got .* expected float \[R, V\]"):
        argmax(values)
