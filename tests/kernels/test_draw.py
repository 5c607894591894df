"""Draws and verification by rejection: exact where sums are exact, exact in distribution, never a token of weight 0."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from trimode.kernels.cuda import runtime
from trimode.kernels.draw import cuda, describe, draw, reference, replace_rejected, verify_by_rejection

ALMOST_ONE = 1 - 2**-53


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, dtype=torch.double, generator=torch.Generator().manual_seed(seed)).clamp(
        2**-53, ALMOST_ONE
    )


def dyadic(*shape: int, seed: int = 0) -> torch.Tensor:
    """Weights whose sums are exact, half of them 0, and no row without a positive one."""
    weights = torch.randint(-8, 9, shape, generator=torch.Generator().manual_seed(seed)).clamp_min(0).float() / 16
    weights[..., shape[-1] // 2] = 0.25
    return weights


@pytest.mark.parametrize("width", [1, 2, 7, 1023, 1024, 1025, 3000])
def test_a_draw_on_a_gpu_as_the_reference(width: int, gpu: torch.device) -> None:
    weights, uniform = dyadic(6, width).to(gpu), numbers(6).to(gpu)
    uniform[0], uniform[1] = 2**-53, ALMOST_ONE
    assert describe(weights) == f"cuda, sm_{runtime.capability(gpu)}"
    assert torch.equal(draw(weights, uniform), reference.draw(weights, uniform))


def test_a_number_on_a_boundary_takes_the_next_token(gpu: torch.device) -> None:
    weights = torch.zeros(1, 2048, device=gpu)
    weights[0, [3, 1023, 1030]] = torch.tensor([1.0, 1.0, 2.0], device=gpu)
    for number, token in ((0.2, 3), (0.25, 1023), (0.49, 1023), (0.5, 1030), (ALMOST_ONE, 1030)):
        uniform = torch.tensor([number], dtype=torch.double, device=gpu)
        assert draw(weights, uniform).tolist() == reference.draw(weights, uniform).tolist() == [token]


WEIGHTS = st.lists(
    st.sampled_from([0.0, 0.0, 1e-45, 1e-38, 1e-30, 1e-7, 0.1, 0.3, 1.0, 3.0]), min_size=1, max_size=9
).filter(any)


@settings(max_examples=40, deadline=None)
@given(WEIGHTS, st.sampled_from([2**-53, 0.3, 0.5, 0.9, ALMOST_ONE]), st.sampled_from([1, 300]))
def test_a_token_of_weight_zero_is_never_drawn(weights: list[float], number: float, spread: int) -> None:
    if not runtime.is_interpreter():
        pytest.skip("Triton is not there, or compiles for the GPU in this process")
    table = torch.zeros(1, spread * len(weights))
    table[0, ::spread] = torch.tensor(weights)
    with runtime.interpreted():
        (token,) = draw(table, torch.tensor([number], dtype=torch.double)).tolist()
    assert table[0, token] > 0


def test_programs_that_take_several_splits_change_no_bit(gpu: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, uniform = torch.rand(3, 5000).to(gpu), numbers(3).to(gpu)
    many = draw(weights, uniform)
    monkeypatch.setattr(runtime, "num_sms", lambda _device: 1)
    monkeypatch.setattr(cuda, "PROGRAMS_PER_SM", 6)
    assert torch.equal(draw(weights, uniform), many)


def blocks(width: int, vocab: int, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """Blocks of all lengths, with padding that must not be read."""
    count = 2 * width + 3
    generator = torch.Generator().manual_seed(seed)
    p, q = dyadic(count, width, vocab, seed=seed), dyadic(count, width - 1, vocab, seed=seed + 1)
    length = torch.arange(count) % width + 1
    block = torch.randint(0, vocab, (count, width), generator=generator)
    for row in range(count):
        block[row, length[row] :] = -1
        p[row, length[row] :] = math.nan
        q[row, length[row] - 1 :] = math.nan
    q[-1], p[-1] = p[-1, : width - 1], p[-1]  # equal: nothing is left of p - q
    return p, q, block, length, numbers(count, width - 1, seed=seed + 2), numbers(count, width, seed=seed + 3)


@pytest.mark.parametrize(("width", "vocab"), [(1, 5), (2, 5), (5, 7), (8, 1030), (33, 3)])
def test_verification_on_a_gpu_as_the_reference(width: int, vocab: int, gpu: torch.device) -> None:
    tensors = [tensor.to(gpu) for tensor in blocks(width, vocab)]
    accepted, token = verify_by_rejection(*tensors)
    expected_accepted, expected_token = reference.verify_by_rejection(*tensors)
    assert torch.equal(accepted, expected_accepted)
    assert torch.equal(token, expected_token)
    if width == 5:
        assert len(set(accepted.tolist())) >= 3


def test_what_the_gpu_kernel_refuses_goes_to_the_reference(gpu: torch.device) -> None:
    tensors = [tensor.to(gpu) for tensor in blocks(3, 5)]
    plain = verify_by_rejection(*tensors)
    tensors[0] = tensors[0].transpose(1, 2).contiguous().transpose(1, 2)
    assert cuda.supports_blocks(*tensors) == "an input is not contiguous"
    assert all(map(torch.equal, verify_by_rejection(*tensors), plain))
    many = [tensor.to(gpu) for tensor in blocks(257, 2)]
    assert cuda.supports_blocks(*many) == "a block of 257 is above 256"
    weights = dyadic(2, 6).double().to(gpu)
    assert cuda.supports(weights) == "no GPU kernel for torch.float64"
    assert draw(weights, numbers(2).to(gpu)).shape == (2,)


def test_verified_tokens_are_exact_samples_of_p() -> None:
    check_samples(torch.device("cpu"), 20_000)


def test_verified_tokens_are_exact_samples_of_p_on_a_gpu(gpu: torch.device) -> None:
    check_samples(gpu, 200)


def check_samples(device: torch.device, count: int) -> None:
    """Chi-square tests of every position of many blocks of two drafts; the vocabulary has five tokens."""
    p = torch.tensor([[0.5, 0.3, 0.15, 0.05, 0.0], [0.1, 0.0, 0.2, 0.3, 0.4], [0.2] * 5])
    q = torch.tensor([[0.1, 0.6, 0.1, 0.2, 0.0], [0.1, 0.3, 0.2, 0.4, 0.0]])
    drafts = [draw(q[i].repeat(count, 1), numbers(count, seed=i)) for i in range(2)]
    block = torch.stack([torch.zeros(count, dtype=torch.int64), *drafts], dim=1)
    tensors = (p.repeat(count, 1, 1), q.repeat(count, 1, 1), block, torch.full((count,), 3))
    moved = [tensor.to(device) for tensor in (*tensors, numbers(count, 2, seed=2), numbers(count, 3, seed=3))]
    accepted, token = (part.cpu() for part in verify_by_rejection(*moved))
    emitted = torch.cat([block[:, 1:], torch.zeros(count, 1, dtype=torch.int64)], dim=1)
    emitted[torch.arange(count), accepted - 1] = token
    for position in range(3):
        counts = Counter(emitted[accepted > position, position].tolist())
        possible = [index for index in range(5) if p[position, index] > 0]
        assert set(counts) <= set(possible)
        total = sum(counts.values())
        expected = [float(p[position, index]) * total for index in possible]
        assert stats.chisquare([counts[index] for index in possible], expected, sum_check=False).pvalue > 1e-4
    assert (accepted > 1).double().mean() == pytest.approx(float(torch.minimum(p[0], q[0]).sum()), abs=0.1)


def test_a_replacement_agrees_with_the_verification_of_a_block_of_two() -> None:
    p, q, block, _, chances, uniform = blocks(2, 7)
    p, q = p.nan_to_num(0.25), q.nan_to_num(0.25)
    drafts = block[:, 1].clamp_min(0)
    block = torch.stack([block[:, 0], drafts], dim=1)
    accepted, token = verify_by_rejection(p, q, block, torch.full((len(p),), 2), chances, uniform)
    got = replace_rejected(p[:, 0], q[:, 0], drafts, chances[:, 0], uniform[:, 0])
    assert torch.equal(got, torch.where(accepted == 2, drafts, token))


def test_what_does_not_fit_is_named() -> None:
    weights, uniform = torch.ones(2, 3), numbers(2)
    for pair in ((weights[0], uniform), (weights, uniform[:1]), (weights, uniform.float()), (weights.int(), uniform)):
        with pytest.raises(ValueError, match=r"draw: got weights .* expected float \[R, V\]"):
            draw(*pair)
    with pytest.raises(ValueError, match=r"replace_rejected: got p .* expected twice float \[R, V\]"):
        replace_rejected(weights, weights.double(), torch.zeros(2).long(), uniform, uniform)
    good = blocks(3, 5)
    for number, bad in ((0, good[0][0]), (1, good[1].double()), (2, good[2].int()), (3, good[3][1:]), (5, good[4])):
        tensors = [*good[:number], bad, *good[number + 1 :]]
        with pytest.raises(ValueError, match=r"verify_by_rejection: got p .* expected float \[R, B, V\]"):
            verify_by_rejection(*tensors)
