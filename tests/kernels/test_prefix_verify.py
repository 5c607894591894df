"""Prefix verification: the agreed drafts and one more token."""

from __future__ import annotations

import pytest
import torch
from trimode.kernels.prefix_verify import prefix_verify


def test_counts_the_agreed_prefix_and_one_more() -> None:
    block = torch.tensor([[9, 1, 2, 3], [9, 1, 2, 3], [9, 7, 2, 3], [9, 1, -1, -1], [9, -1, -1, -1]])
    verified = torch.tensor([[1, 2, 3, 4], [1, 2, 0, 4], [1, 2, 3, 4], [1, 5, -2, -2], [4, -2, -2, -2]])
    got = prefix_verify(verified, block, torch.tensor([4, 4, 4, 2, 1]))
    assert got.tolist() == [4, 3, 1, 2, 1]


def test_padding_that_agrees_is_not_counted() -> None:
    same = torch.tensor([[1, 1, 1, 1]])
    assert prefix_verify(same, same, torch.tensor([2])).tolist() == [2]


def test_what_does_not_fit_is_named() -> None:
    ids = torch.zeros(2, 4).long()
    for verified, length in ((ids[:, :3], ids[:, 0]), (ids, ids[:1, 0]), (ids[0], ids[0, 0])):
        with pytest.raises(ValueError, match=r"prefix_verify: got verified .*; expected \[R, B\], \[R, B\] and \[R\]"):
            prefix_verify(verified, ids, length)
