"""Writes a checkpoint of a given shape with random weights, in the released layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from trimode.workers.model.checkpoint import MODEL_TYPE, expected_shapes, read_config

SPREAD = 0.02
"""Standard deviation of the weights, as models are initialised."""
BENCH_SHAPE: dict[str, Any] = {
    "vocab_size": 32768,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "max_position_embeddings": 262144,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {
        "rope_type": "yarn",
        "rope_theta": 1000000.0,
        "factor": 16.0,
        "original_max_position_embeddings": 16384,
        "max_position_embeddings": 262144,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "llama_4_scaling_beta": 0.1,
    },
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}
"""0.92 GB of bfloat16 weights are read per forward: it fits any machine, yet is far larger than its caches."""
TINY_SHAPE = BENCH_SHAPE | {
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}


def write_checkpoint(folder: Path, shape: dict[str, Any]) -> None:
    """Fills `folder` with config.json and model.safetensors in bfloat16; norms are ones. Always the same numbers."""
    config = shape | {"model_type": MODEL_TYPE, "mask_token_id": 100, "dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    chance = torch.Generator().manual_seed(0)
    tensors = {}
    for name, size in expected_shapes(read_config(folder)).items():
        tensor = torch.ones(size) if len(size) == 1 else torch.randn(size, generator=chance).mul_(SPREAD)
        tensors[name] = tensor.bfloat16()
    save_file(tensors, folder / "model.safetensors")
