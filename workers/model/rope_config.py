"""The rotary parameters of a checkpoint, read from its config.json by a list of what this model can do."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trimode.workers.model.json_values import is_integer, not_integer, not_number, show

KEYS = frozenset({
    "rope_type", "type", "rope_theta", "factor", "original_max_position_embeddings", "max_position_embeddings",
    "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "attention_factor", "llama_4_scaling_beta",
    "partial_rotary_factor", "truncate",
})  # fmt: skip
ONLY = {"partial_rotary_factor": (None, 1), "truncate": (None, True)}
"""Keys of transformers that this model does not vary, with their only values."""
YARN_KEYS = ("factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "attention_factor")
"""Keys that plain RoPE does not read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeConfig:
    """Static rotary parameters."""

    theta: float
    factor: float | None
    """YaRN factor; None = plain RoPE."""
    original_max_positions: int
    beta_fast: float
    beta_slow: float
    attention_factor: float
    query_scale_beta: float
    """0 = no query scale."""


def rope_parameters(raw: Mapping[str, object]) -> dict[str, object] | None:
    """Returns the rotary keys of a config.json without those that are null; None if they are no object."""
    rope = raw.get("rope_parameters")
    if rope is None:
        scaling = raw.get("rope_scaling")
        rope = scaling if scaling is not None else {}
    if not isinstance(rope, dict):
        return None
    every = {"rope_theta": raw.get("rope_theta"), "partial_rotary_factor": raw.get("partial_rotary_factor"), **rope}
    return {key: value for key, value in every.items() if value is not None}


def rope_problems(raw: Mapping[str, object]) -> list[str]:
    """Returns what is wrong with the rotary keys of a config.json, each named by its key."""
    rope = rope_parameters(raw)
    if rope is None:
        given = next(raw[key] for key in ("rope_parameters", "rope_scaling") if raw.get(key) is not None)
        return [f"rope_parameters: got {show(given)}; valid: an object"]
    problems = [f"{key}: unknown; valid: {', '.join(sorted(KEYS))}" for key in sorted(set(rope) - KEYS)]
    problems += [
        f"{key}: got {show(rope[key])}; valid: {valid[1]}"
        for key, valid in ONLY.items()
        if key in rope and rope[key] not in valid
    ]
    kind = _kind(rope)
    if kind not in ("yarn", "default"):
        problems.append(f"rope_type: got {show(kind)}; valid: 'yarn', 'default'")
    elif not rope.keys() & {"rope_type", "type"} and (given := [key for key in YARN_KEYS if key in rope]):
        problems.append(f"rope_type is missing; valid with {', '.join(given)}: 'yarn', or 'default' to ignore them")
    if "rope_theta" not in rope:
        problems.append("rope_theta is missing")
    elif bad := not_number(rope, "rope_theta", above=1.0):
        problems += bad
    if kind == "yarn" and "factor" not in rope:
        problems.append("factor is missing; rope_type 'yarn' needs one")
    for key in ("factor", "beta_fast", "beta_slow", "attention_factor"):
        problems += not_number(rope, key, above=0.0) if key in rope else []
    for key in ("mscale", "mscale_all_dim", "llama_4_scaling_beta"):
        problems += not_number(rope, key) if key in rope else []
    if "original_max_position_embeddings" in rope:
        problems += not_integer(rope, "original_max_position_embeddings", 1)
    if not problems and _number(rope, "beta_fast", 32.0) < _number(rope, "beta_slow", 1.0):
        problems.append(f"beta_fast: got {rope.get('beta_fast')}; valid: at least beta_slow")
    if not problems and kind == "yarn" and not _has_ramp(rope, raw):
        original = rope.get("original_max_position_embeddings")
        problems.append(
            f"original_max_position_embeddings: got {original}; valid: a length for which the YaRN ramp from beta_fast "
            "to beta_slow lies within head_dim"
        )
    return problems


def read_rope(raw: Mapping[str, object], max_position_embeddings: int) -> RopeConfig:
    """Returns the rotary parameters of a config.json in which `rope_problems` finds none."""
    rope: Mapping[str, Any] = rope_parameters(raw) or {}
    factor = float(rope["factor"]) if _kind(rope) == "yarn" else None
    return RopeConfig(
        theta=float(rope["rope_theta"]),
        factor=factor,
        original_max_positions=rope.get("original_max_position_embeddings", max_position_embeddings),
        beta_fast=_number(rope, "beta_fast", 32.0),
        beta_slow=_number(rope, "beta_slow", 1.0),
        attention_factor=1.0 if factor is None else _attention_factor(rope, factor),
        query_scale_beta=_number(rope, "llama_4_scaling_beta", 0.0),
    )


def _has_ramp(rope: Mapping[str, Any], raw: Mapping[str, Any]) -> bool:
    """True if YaRN's ramp begins before it ends; otherwise its formula has no meaning. True without a head_dim."""
    head_dim: Any = raw.get("head_dim")
    original: Any = rope.get("original_max_position_embeddings", raw.get("max_position_embeddings"))
    if not is_integer(head_dim, 2) or not is_integer(original, 1):
        return True

    def dimension_of(rotations: float) -> float:
        return float(head_dim) * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(rope["rope_theta"]))

    low = max(math.floor(dimension_of(_number(rope, "beta_fast", 32.0))), 0)
    high = min(math.ceil(dimension_of(_number(rope, "beta_slow", 1.0))), int(head_dim) - 1)
    return low <= high


def _attention_factor(rope: Mapping[str, Any], factor: float) -> float:
    """Returns what YaRN multiplies cos and sin by; both mscales count or none, as in transformers."""
    if "attention_factor" in rope:
        return float(rope["attention_factor"])
    if rope.get("mscale") and rope.get("mscale_all_dim"):
        return _mscale(factor, rope["mscale"]) / _mscale(factor, rope["mscale_all_dim"])
    return _mscale(factor, 1.0)


def _mscale(factor: float, mscale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def _kind(rope: Mapping[str, Any]) -> object:
    return rope.get("rope_type", rope.get("type", "default"))


def _number(rope: Mapping[str, Any], key: str, default: float) -> float:
    return float(rope.get(key, default))
