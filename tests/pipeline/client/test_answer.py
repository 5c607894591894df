"""What is sent with a sample: the seed of its random numbers."""

from __future__ import annotations

from trimode.pipeline.client.answer import sample_seed


def test_every_sample_of_every_repeat_has_its_own_seed() -> None:
    keys = [(seed, name, row) for seed in range(8) for name in ("gsm8k", "math-500") for row in range(1500)]
    seeds = {sample_seed(*key) for key in keys}
    assert len(seeds) == len(keys)
    assert all(0 <= seed < 1 << 53 for seed in seeds)


def test_a_sample_keeps_its_seed() -> None:
    """Results at a temperature are reproducible only while this function stays as it is."""
    assert sample_seed(0, "gsm8k", 0) == 580_847_876_674_333
