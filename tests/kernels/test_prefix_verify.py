"""Prefix verification: the agreed drafts and one more token."""

from __future__ import annotations

import pytest
import torch
from trimode.kernels.cuda import runtime
from trimode.kernels.prefix_verify import cuda, describe, prefix_verify, reference


def test_counts_the_agreed_prefix_and_one_more() -> None:
    block = torch.tensor([[9, 1, 2, 3], [9, 1, 2, 3], [9, 7, 2, 3], [9, 1, -1, -1], [9, -1, -1, -1]])
    verified = torch.tensor([[1, 2, 3, 4], [1, 2, 0, 4], [1, 2, 3, 4], [1, 5, -2, -2], [4, -2, -2, -2]])
    got = prefix_verify(verified, block, torch.tensor([4, 4, 4, 2, 1]))
    assert got.tolist() == [4, 3, 1, 2, 1]


def test_padding_that_agrees_is_not_counted() -> None:
    same = torch.tensor([[1, 1, 1, 1]])
    assert prefix_verify(same, same, torch.tensor([2])).tolist() == [2]


@pytest.mark.parametrize("width", [1, 2, 4, 31, 33, 100])
def test_on_a_gpu_as_the_reference(width: int, gpu: torch.device) -> None:
    generator = torch.Generator().manual_seed(width)
    block = torch.randint(0, 9, (9, width), generator=generator)
    verified = block.roll(-1, dims=1)
    for row in range(8):
        verified[row, min(row * width // 8, width - 1)] += 100
    length = torch.randint(1, width + 1, (9,), generator=generator)
    length[-1] = width
    tensors = [tensor.to(gpu) for tensor in (verified, block, length)]
    assert describe(tensors[0]) == f"cuda, sm_{runtime.capability(gpu)}"
    got = prefix_verify(*tensors)
    assert torch.equal(got, reference.prefix_verify(*tensors))
    assert got[-1] == width


def test_what_the_gpu_kernel_refuses_goes_to_the_reference(gpu: torch.device) -> None:
    same = torch.ones(2, 8, dtype=torch.int64, device=gpu)[:, ::2]
    length = torch.tensor([4, 2], device=gpu)
    assert cuda.supports(same, same, length) == "an input is not contiguous"
    assert prefix_verify(same, same, length).tolist() == [4, 2]
    assert cuda.supports(torch.zeros(1, 1025, device=gpu)) == "a block of 1025 is above 1024"


def test_what_does_not_fit_is_named() -> None:
    ids = torch.zeros(2, 4).long()
    for verified, length in (
        (ids[:, :3], ids[:, 0]),
        (ids, ids[:1, 0]),
        (ids[0], ids[0, 0]),
        (ids.int(), ids[:, 0]),
        (ids, ids[:, 0].to("meta")),
    ):
        with pytest.raises(ValueError, match=r"prefix_verify: got verified .*; expected \[R, B\], \[R, B\] and \[R\]"):
            prefix_verify(verified, ids, length)
