"""Each rule of a sweep is refused with what came and what is valid."""

from __future__ import annotations

import pytest
from trimode.core.errors import ConfigError
from trimode.tests.fakes.sweeps import config_of


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("modes.ar.block_length=2", "block_length of ar: got 2; valid: 1"),
        ("modes.dlm.block_length=0", "modes.dlm.block_length: got 0; valid: a whole number from 1"),
        ("num_chunks=0", "num_chunks: got 0; valid: a whole number from 1"),
        ("modes.ar.threshold=0.5", "threshold of ar: got 0.5; valid: null"),
        ("modes.dlm.threshold=1.5", "threshold of dlm: got 1.5; valid: from 0 up to 1"),
        ("modes.dlm.threshold=-0.5", "threshold of dlm: got -0.5"),
        ("modes.linear_spec.threshold=-1", "threshold of linear_spec: got -1; valid: from 0 up to 1"),
        ("modes.dlm.threshold=nan", "threshold of dlm: got nan"),
        ("modes.dlm.lora=true", "only linear_spec does; got mode dlm"),
        ("max_new_tokens=0", "max_new_tokens: got 0; valid: a whole number from 1"),
        ("max_new_tokens=20480", "valid: below 20480, or a larger max_model_len"),
        ("modes.dlm.max_position_embeddings=10000", "max_model_len of dlm stays within its max_position_embeddings"),
        ("temperature=-1", "temperature: got -1.0; valid: 0 (greedy) or more"),
        ("temperature=inf", "temperature: got inf"),
        ("top_p=0", "top_p: got 0.0"),
        ("limit=0", "limit: got 0; valid: a whole number from 1"),
        ("cluster.gpus=0", "cluster.gpus: got 0"),
        ("balancer.workers=9", "workers: each has a GPU of its own; got 9 for 8 GPUs"),
        ("exp_name='../up'", "exp_name is one folder's name: got '../up'"),
    ],
)
def test_a_broken_rule_is_named(override: str, words: str) -> None:
    with pytest.raises(ConfigError) as error:
        config_of(override)
    assert words in str(error.value)


def test_no_mode_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least one mode"):
        config_of("mode=ar", "~modes.ar")


def test_workers_on_the_cpu_need_no_gpus() -> None:
    assert config_of("balancer.workers=9", "balancer.device=cpu").balancer.workers == 9
