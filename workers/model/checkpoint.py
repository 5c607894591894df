"""Reads the released checkpoint layout: config.json into a ModelConfig, tensor names and shapes checked before loading.

Code that comes with a checkpoint is never run. Every size is read, none is derived or defaulted, because the three
released sizes share a config class whose defaults fit only one of them.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from trimode.core.errors import ConfigError

MODEL_TYPE = "nemotron_labs_diffusion"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
REQUIRED_KEYS = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps", "eos_token_id", "mask_token_id",
)  # fmt: skip


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


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Sizes and token ids of one checkpoint."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float
    eos_token_ids: tuple[int, ...]
    mask_token_id: int
    rope: RopeConfig

    @property
    def kv_bytes_per_token(self) -> int:
        """Elements of K and V per token over all layers. Multiply by the element size to get bytes."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim


def read_json(path: Path) -> dict[str, object]:
    """Returns the JSON object in `path`. ConfigError if the file is missing or holds something else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"checkpoint: {path} is missing") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"checkpoint: {path} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"checkpoint: {path} must hold an object, got {type(value).__name__}")
    return value


def _mscale(factor: float, mscale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def _rope_config(raw: dict[str, object], path: Path) -> RopeConfig:
    rope = raw.get("rope_parameters") or {**(raw.get("rope_scaling") or {}), "rope_theta": raw.get("rope_theta")}  # type: ignore[dict-item]
    if not isinstance(rope, dict) or rope.get("rope_theta") is None:
        raise ConfigError(f"checkpoint: {path} names no rope_theta (in rope_parameters)")
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind not in ("yarn", "default"):
        raise ConfigError(f"checkpoint: {path} rope_type: got {kind!r}; valid: 'yarn', 'default'")
    factor = float(rope["factor"]) if kind == "yarn" else None
    original: Any = rope.get("original_max_position_embeddings") or raw["max_position_embeddings"]
    attention = 1.0
    if factor is not None:
        given = rope.get("attention_factor")
        numerator = _mscale(factor, float(rope.get("mscale") or 1))
        # A config without mscale_all_dim is plain YaRN, whose factor is the numerator alone.
        denominator = _mscale(factor, float(rope["mscale_all_dim"])) if rope.get("mscale_all_dim") else 1.0
        attention = float(given) if given is not None else numerator / denominator
    return RopeConfig(
        theta=float(rope["rope_theta"]),
        factor=factor,
        original_max_positions=int(original),
        beta_fast=float(rope.get("beta_fast") or 32),
        beta_slow=float(rope.get("beta_slow") or 1),
        attention_factor=attention,
        query_scale_beta=float(rope.get("llama_4_scaling_beta") or 0),
    )


def read_config(folder: Path, max_position_embeddings: int | None = None) -> ModelConfig:
    """Returns the ModelConfig of a checkpoint folder. ConfigError lists every missing or unsupported key at once."""
    path = folder / "config.json"
    raw = read_json(path)
    if raw.get("model_type") != MODEL_TYPE:
        raise ConfigError(f"checkpoint: {path} model_type: got {raw.get('model_type')!r}; valid: {MODEL_TYPE!r}")
    problems = [f"{key} is missing" for key in REQUIRED_KEYS if raw.get(key) is None]
    for key, only in (("tie_word_embeddings", False), ("attention_bias", False), ("sliding_window", None)):
        if raw.get(key, only) != only:
            problems.append(f"{key}: got {raw[key]!r}; valid: {only!r}")
    if raw.get("hidden_act", "silu") != "silu":
        problems.append(f"hidden_act: got {raw['hidden_act']!r}; valid: 'silu'")
    if problems:
        raise ConfigError(f"checkpoint: {path}: " + "; ".join(problems))
    eos = raw["eos_token_id"]
    try:
        return ModelConfig(
            vocab_size=int(raw["vocab_size"]),  # type: ignore[call-overload]
            hidden_size=int(raw["hidden_size"]),  # type: ignore[call-overload]
            intermediate_size=int(raw["intermediate_size"]),  # type: ignore[call-overload]
            num_layers=int(raw["num_hidden_layers"]),  # type: ignore[call-overload]
            num_heads=int(raw["num_attention_heads"]),  # type: ignore[call-overload]
            num_kv_heads=int(raw["num_key_value_heads"]),  # type: ignore[call-overload]
            head_dim=int(raw["head_dim"]),  # type: ignore[call-overload]
            max_position_embeddings=max_position_embeddings or int(raw["max_position_embeddings"]),  # type: ignore[call-overload]
            rms_norm_eps=float(raw["rms_norm_eps"]),  # type: ignore[arg-type]
            eos_token_ids=tuple(int(i) for i in eos) if isinstance(eos, list) else (int(eos),),  # type: ignore[call-overload]
            mask_token_id=int(raw["mask_token_id"]),  # type: ignore[call-overload]
            rope=_rope_config(raw, path),
        )
    except (TypeError, ValueError) as error:
        raise ConfigError(f"checkpoint: {path}: {error}") from None


def expected_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Returns name and shape of every tensor of the released layout: 9 per layer and 3 more."""
    hidden, inner = config.hidden_size, config.intermediate_size
    q_width, kv_width = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    shapes: dict[str, tuple[int, ...]] = {
        "encoder.embed_tokens.weight": (config.vocab_size, hidden),
        "encoder.norm.weight": (hidden,),
        "diffusion_head.weight": (config.vocab_size, hidden),
    }
    for layer in range(config.num_layers):
        at = f"encoder.layers.{layer}."
        shapes |= {
            f"{at}input_layernorm.weight": (hidden,),
            f"{at}post_attention_layernorm.weight": (hidden,),
            f"{at}self_attn.q_proj.weight": (q_width, hidden),
            f"{at}self_attn.k_proj.weight": (kv_width, hidden),
            f"{at}self_attn.v_proj.weight": (kv_width, hidden),
            f"{at}self_attn.o_proj.weight": (hidden, q_width),
            f"{at}mlp.gate_proj.weight": (inner, hidden),
            f"{at}mlp.up_proj.weight": (inner, hidden),
            f"{at}mlp.down_proj.weight": (hidden, inner),
        }
    return shapes


class WeightFiles:
    """The safetensors files of one folder. Opening reads the headers only, which hold names and shapes."""

    def __init__(self, paths: list[Path]) -> None:
        """Reads the headers. ConfigError if a file is missing, truncated or no safetensors file."""
        self.paths = paths
        self._files: dict[str, safe_open] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        for path in paths:
            try:
                file = safe_open(str(path), framework="pt")
                for name in file.keys():  # noqa: SIM118 -- safe_open is no mapping
                    self._files[name] = file
                    self.shapes[name] = tuple(file.get_slice(name).get_shape())
            except FileNotFoundError:
                raise ConfigError(f"checkpoint: {path} is missing") from None
            except (SafetensorError, OSError) as error:
                raise ConfigError(f"checkpoint: {path} is truncated or no safetensors file: {error}") from None

    def tensor(self, name: str) -> torch.Tensor:
        """Returns the tensor `name`, on the CPU in its stored dtype."""
        tensor: torch.Tensor = self._files[name].get_tensor(name)
        return tensor

    def check(self, expected: dict[str, tuple[int, ...]], what: str) -> None:
        """Raises ConfigError with every missing, extra and wrongly shaped tensor, compared with `expected`."""
        problems = [f"missing {name}" for name in expected if name not in self.shapes]
        problems += [f"extra {name}" for name in self.shapes if name not in expected]
        problems += [
            f"{name} has shape {list(self.shapes[name])}, expected {list(shape)}"
            for name, shape in expected.items()
            if name in self.shapes and self.shapes[name] != shape
        ]
        if problems:
            more = f"; and {len(problems) - 12} more" if len(problems) > 12 else ""
            raise ConfigError(f"{what}: {'; '.join(problems[:12])}{more}")


def open_weights(folder: Path) -> WeightFiles:
    """Opens the model's weights: `model.safetensors`, or the shards that `model.safetensors.index.json` names."""
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").exists() or not index.exists():
        return WeightFiles([folder / "model.safetensors"])
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise ConfigError(f"checkpoint: {index} has no weight_map")
    return WeightFiles([folder / str(name) for name in sorted(set(weight_map.values()))])


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            yield chunk


def files_sha256(paths: list[Path]) -> str:
    """Returns the sha256 over the contents of `paths` in order."""
    digest = hashlib.sha256()
    for path in paths:
        for chunk in _chunks(path):
            digest.update(chunk)
    return digest.hexdigest()
