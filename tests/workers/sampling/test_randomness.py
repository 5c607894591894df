"""Counter-based random numbers: pure, distinct and uniform."""

from __future__ import annotations

from scipy import stats
from trimode.workers.sampling.randomness import request_seed, uniform


def test_uniform_is_a_function_of_seed_position_and_purpose() -> None:
    numbers = {uniform(s, p, w) for s in range(5) for p in range(5) for w in ("draft0", "verify")}
    assert len(numbers) == 50
    assert uniform(3, 4, "decode") == uniform(3, 4, "decode")
    many = [uniform(seed, 7, "decode") for seed in range(20_000)]
    assert stats.kstest(many, "uniform").pvalue > 1e-4


def test_a_request_seed_is_a_function_of_the_seed_and_the_whole_prompt() -> None:
    prompts = [[], [0], [0, 0], [1], [1, 2], [2, 1], [258]]
    seeds = [-(1 << 63), -1, 0, 1, 2, (1 << 63) - 1]
    keys = {request_seed(seed, prompt) for seed in seeds for prompt in prompts}
    assert len(keys) == len(prompts) * len(seeds)
    assert all(-(1 << 63) <= key < 1 << 63 for key in keys)
    assert request_seed(3, [1, 2]) == request_seed(3, (1, 2))


def test_numbers_of_two_requests_and_of_two_repeats_are_uncorrelated() -> None:
    first, other_prompt, other_seed = (
        [uniform(request_seed(seed, prompt), position, "decode") for position in range(5000)]
        for seed, prompt in ((0, [1, 2]), (0, [1, 3]), (1, [1, 2]))
    )
    for other in (other_prompt, other_seed):
        assert stats.pearsonr(first, other).pvalue > 1e-4
