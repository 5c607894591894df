"""Small checkpoints with quantised weights: those that other libraries packed, and copies of the micro checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from trimode.tests.workers.micro import MICRO

FOREIGN = Path(__file__).parents[1] / "data" / "quantized"
FOREIGN_NAMES = sorted(path.name for path in FOREIGN.iterdir() if path.is_dir())
SIZES = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
}
"""Of the matrices in tests/data/quantized."""
LAYER = "encoder.layers.0."


def read_object(path: Path) -> dict[str, Any]:
    value = json.loads(path.read_text())
    assert isinstance(value, dict)
    return value


def foreign_checkpoint(name: str, folder: Path) -> Path:
    """A whole checkpoint around the packed matrices of tests/data/quantized/<name>."""
    folder.mkdir(parents=True)
    config = read_object(MICRO / "config.json") | SIZES | read_object(FOREIGN / name / "config.json")
    (folder / "config.json").write_text(json.dumps(config))
    tensors = load_file(FOREIGN / name / "packed.safetensors")
    generator = torch.Generator().manual_seed(1)
    for key in ("encoder.embed_tokens.weight", "diffusion_head.weight"):
        tensors[key] = torch.randn(128, 64, generator=generator).bfloat16()
    for key in ("encoder.norm.weight", f"{LAYER}input_layernorm.weight", f"{LAYER}post_attention_layernorm.weight"):
        tensors[key] = torch.ones(64).bfloat16()
    save_file(tensors, folder / "model.safetensors")
    return folder


def edit_quantization(folder: Path, *path: str, **changes: object) -> None:
    """Changes keys of `quantization_config`, or of the object at `path` inside it; None as `...` removes the key."""
    config = read_object(folder / "config.json")
    at = config["quantization_config"]
    for key in path:
        at = at[key]
    for key, value in changes.items():
        if value is ...:
            at.pop(key)
        else:
            at[key] = value
    (folder / "config.json").write_text(json.dumps(config))
