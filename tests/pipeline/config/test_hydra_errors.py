"""Mistakes in settings are said with the setting, what came, and what is valid."""

from __future__ import annotations

import pytest
from trimode.core.errors import ConfigError
from trimode.pipeline.config.compose import compose
from trimode.pipeline.config.hydra_errors import plain
from trimode.pipeline.config.multirun import compose_all


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("mode=fast", "mode: got 'fast'; valid: all, ar, auto, demo, dlm, linear_spec"),
        ("limit=ten", "limit: got 'ten'; valid: a whole number"),
        ("temperature=hot", "temperature: got 'hot'; valid: a number"),
        ("fresh=maybe", "fresh: got 'maybe'; valid: true or false"),
        ("model.dtype=float23", "model.dtype: got 'float23'; valid: bfloat16, float32"),
        (
            "modes.none.threshold=0",
            "modes.none.threshold: no entry 'none' of modes is chosen; valid: choose it",
        ),
        ("mdoe=ar", "unknown setting: got mdoe; did you mean mode? valid: modes, benchmarks, model"),
        (
            "model.dtpye=float32",
            "unknown setting: got model.dtpye; did you mean model.dtype? valid in model: path",
        ),
        ("modes.dlm.treshold=0", "unknown setting: got modes.dlm.treshold; did you mean modes.dlm.threshold? valid in"),
        ("cluster.zzz=1", "unknown setting: got cluster.zzz; valid in cluster: name, executor"),
    ],
)
def test_a_mistake_names_the_setting_and_what_is_valid(override: str, said: str) -> None:
    for composed in (compose, compose_all):
        with pytest.raises(ConfigError) as error:
            composed(["mode=dlm", "model=demo", "cluster=local", override])
        assert str(error.value).startswith(said)
        assert "\n" not in str(error.value)


def test_what_a_plus_would_mend_is_said_by_hydra() -> None:
    with pytest.raises(ConfigError, match=r"use \+balancer\.fields\.top_k=1"):
        compose(["balancer=openai", "balancer.fields.top_k=1"])


def test_another_message_stays_as_it_is_without_names_of_our_classes() -> None:
    with pytest.raises(ConfigError) as error:
        compose(["cluster.modules=3"])
    assert "reference_type" not in str(error.value)
    assert plain("something new") == "something new"
