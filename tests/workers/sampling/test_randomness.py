"""Counter-based random numbers: pure, distinct and uniform."""

from __future__ import annotations

from scipy import stats
from trimode.workers.sampling.randomness import uniform


def test_uniform_is_a_function_of_seed_position_and_purpose() -> None:
    numbers = {uniform(s, p, w) for s in range(5) for p in range(5) for w in ("draft0", "verify")}
    assert len(numbers) == 50
    assert uniform(3, 4, "decode") == uniform(3, 4, "decode")
    many = [uniform(seed, 7, "decode") for seed in range(20_000)]
    assert stats.kstest(many, "uniform").pvalue > 1e-4
