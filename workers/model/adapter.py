"""Reads a LoRA adapter in peft's own layout: o_proj of every layer, the drafter of linear_spec.

An adapter that would silently change results is refused with the field's name: other target modules, a rank that does
not match, variants of LoRA that need another formula, an adapter of another base model.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from trimode.core.errors import ConfigError
from trimode.kernels import linear
from trimode.kernels.linear import Prepared
from trimode.workers.model.checkpoint import ModelConfig, WeightFiles, read_json

RANK_MULTIPLE = 16
"""The rank is padded to a multiple of this, because the CPU kernels multiply whole vectors."""
_PLAIN = {
    "use_rslora": (False, None),
    "use_dora": (False, None),
    "bias": ("none", None),
    "modules_to_save": (None, []),
    "rank_pattern": ({}, None),
    "alpha_pattern": ({}, None),
    "layers_to_transform": (None,),
}


@dataclass(frozen=True, slots=True)
class Adapter:
    """LoRA factors per layer: y = W x + scale * B (A x) on o_proj."""

    scale: float
    """lora_alpha / r."""
    a: list[Prepared]
    """`[r, heads * head_dim]` per layer, r padded."""
    b: list[Prepared]
    """`[hidden, r]` per layer, r padded."""


def _tensor_name(layer: int, side: str) -> str:
    return f"base_model.model.encoder.layers.{layer}.self_attn.o_proj.lora_{side}.weight"


def _positive_int(raw: dict[str, object], key: str, path: Path) -> int:
    value = raw.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool) or value <= 0:
        raise ConfigError(f"adapter: {path} {key}: got {value!r}; valid: a positive number")
    return int(value)


def open_adapter(folder: Path, config: ModelConfig) -> tuple[WeightFiles, float]:
    """Checks the adapter against the model and returns its files and its scale. Reads headers only.

    Raises:
        ConfigError: names what does not fit.
    """
    path = folder / "adapter_config.json"
    raw = read_json(path)
    problems = []
    if raw.get("peft_type", "LORA") != "LORA":
        problems.append(f"peft_type: got {raw['peft_type']!r}; valid: 'LORA'")
    targets = raw.get("target_modules")
    if targets not in (["o_proj"], "o_proj"):
        problems.append(f"target_modules: got {targets!r}; valid: ['o_proj']")
    problems += [
        f"{key}: got {raw[key]!r}; valid: {valid[0]!r}"
        for key, valid in _PLAIN.items()
        if key in raw and raw[key] not in valid
    ]
    if problems:
        raise ConfigError(f"adapter: {path}: " + "; ".join(problems))
    rank = _positive_int(raw, "r", path)
    scale = float(raw["lora_alpha"]) / rank if _positive_int(raw, "lora_alpha", path) else 0.0  # type: ignore[arg-type]
    files = WeightFiles([folder / "adapter_model.safetensors"])
    q_width = config.num_heads * config.head_dim
    expected: dict[str, tuple[int, ...]] = {}
    for layer in range(config.num_layers):
        expected[_tensor_name(layer, "A")] = (rank, q_width)
        expected[_tensor_name(layer, "B")] = (config.hidden_size, rank)
    files.check(expected, f"adapter: {folder} does not fit this base model (r {rank}, {config.num_layers} layers)")
    return files, scale


def load_adapter(files: WeightFiles, scale: float, num_layers: int, like: torch.Tensor) -> Adapter:
    """Returns the factors on the device and in the dtype of `like`, the rank padded with zeros."""

    def load(layer: int, side: str) -> Prepared:
        factor = files.tensor(_tensor_name(layer, side)).to(device=like.device, dtype=like.dtype)
        missing = -factor.shape[0 if side == "A" else 1] % RANK_MULTIPLE
        return linear.prepare(F.pad(factor, (0, 0, 0, missing) if side == "A" else (0, missing)))

    a, b = ([load(layer, side) for layer in range(num_layers)] for side in "AB")
    return Adapter(scale=scale, a=a, b=b)
