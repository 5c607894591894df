"""Rotary parameters: bad ones are refused by key, good ones give what transformers computes from the same config."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from trimode.kernels.rope import yarn_inv_freq
from trimode.workers.model.rope_config import read_rope, rope_problems

YARN: dict[str, Any] = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 16.0, "original_max_position_embeddings": 64}
NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("key", ["rope_theta", "factor"])
def test_a_key_without_which_yarn_means_nothing_is_missed_by_name(key: str) -> None:
    rope = {name: value for name, value in YARN.items() if name != key}
    for missing in (rope, rope | {key: None}):
        (problem,) = rope_problems({"rope_parameters": missing})
        assert problem.startswith(f"{key} is missing")


@pytest.mark.parametrize("key", ["factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "attention_factor"])
@pytest.mark.parametrize("name", ["rope_parameters", "rope_scaling"])
def test_scaling_without_a_rope_type_is_not_taken_for_plain_rope(name: str, key: str) -> None:
    (problem,) = rope_problems({name: {"rope_theta": 1e6, key: 2.0}})
    assert problem.startswith(f"rope_type is missing; valid with {key}: 'yarn'")
    assert rope_problems({name: {"rope_theta": 1e6, "rope_type": "default", key: 2.0}}) == []
    assert rope_problems({name: {"rope_theta": 1e6, key: None}}) == []


@pytest.mark.parametrize("value", [NAN, INF, -INF, -1.0, True, False, "16", [16.0], {}, 10**400])
@pytest.mark.parametrize(
    "key", ["rope_theta", "factor", "beta_fast", "beta_slow", "attention_factor", "mscale", "mscale_all_dim",
            "llama_4_scaling_beta", "original_max_position_embeddings"],
)  # fmt: skip
def test_a_value_that_is_no_such_number_is_refused_by_name(key: str, value: object) -> None:
    for raw in ({"rope_parameters": YARN | {key: value}}, {"rope_scaling": YARN | {key: value}}):
        (problem,) = rope_problems(raw)
        assert problem.startswith(f"{key}: got ")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rope_theta", 1.0),
        ("factor", 0),
        ("beta_fast", 0.5),
        ("original_max_position_embeddings", 64.0),
        ("original_max_position_embeddings", 0),
        ("rope_type", "linear"),
        ("rope_type", 7),
        ("partial_rotary_factor", 0.5),
        ("truncate", False),
        ("long_factor", [1.0]),
    ],
)
def test_what_this_model_cannot_do_is_refused_by_name(key: str, value: object) -> None:
    (problem,) = rope_problems({"rope_parameters": YARN | {key: value}})
    assert problem.startswith(f"{key}: ")


@pytest.mark.parametrize("value", [[], "yarn", 3, False])
@pytest.mark.parametrize("key", ["rope_parameters", "rope_scaling"])
def test_rotary_parameters_are_an_object(key: str, value: object) -> None:
    (problem,) = rope_problems({key: value, "rope_theta": 1e6})
    assert problem.startswith("rope_parameters: got ")


@pytest.mark.parametrize(
    "changes", [{"original_max_position_embeddings": 1}, {"original_max_position_embeddings": 16384, "rope_theta": 1.5}]
)
def test_a_ramp_that_ends_before_it_begins_is_refused(changes: dict[str, object]) -> None:
    (problem,) = rope_problems({"rope_parameters": YARN | changes, "head_dim": 64})
    assert problem.startswith("original_max_position_embeddings: got ")


def test_plain_rope_needs_a_base_only() -> None:
    for raw in ({"rope_theta": 1e4}, {"rope_parameters": {"rope_theta": 1e4}, "rope_scaling": None}):
        assert rope_problems(raw) == []
        rope = read_rope(raw, 4096)
        assert (rope.theta, rope.factor, rope.attention_factor, rope.original_max_positions) == (1e4, None, 1.0, 4096)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"factor": 0.25},
        {"mscale": 1.0, "mscale_all_dim": 1.0},
        {"mscale": 2.0, "mscale_all_dim": 0.5},
        {"mscale": 2.0},
        {"mscale_all_dim": 0.5},
        {"mscale": 2.0, "mscale_all_dim": 0},
        {"attention_factor": 1.7, "mscale": 2.0},
        {"beta_fast": 4, "beta_slow": 4},
        {"beta_fast": 8.0, "beta_slow": 0.5, "original_max_position_embeddings": 16384},
        {"rope_theta": 1e9},
    ],
)
def test_yarn_is_that_of_transformers(changes: dict[str, Any]) -> None:
    raw = {"rope_parameters": YARN | changes, "head_dim": 64}
    assert rope_problems(raw) == []
    ours = read_rope(raw, 4096)
    config = LlamaConfig(
        hidden_size=256,
        num_attention_heads=4,
        head_dim=64,
        max_position_embeddings=4096,
        rope_parameters=YARN | changes,
    )
    frequencies, attention = ROPE_INIT_FUNCTIONS["yarn"](config, torch.device("cpu"))
    assert ours.attention_factor == pytest.approx(attention)
    assert ours.factor is not None
    got = yarn_inv_freq(64, ours.theta, ours.factor, ours.original_max_positions, ours.beta_fast, ours.beta_slow)
    assert torch.allclose(got.float(), frequencies, rtol=1e-5)
