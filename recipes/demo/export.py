"""Writes the checkpoint folder in the released layout."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor
from trimode.core.files import replacing
from trimode.recipes.demo import tokenizer
from trimode.recipes.demo.network import Network, config_of
from trimode.recipes.demo.tokenizer import BOS_ID, EOS_ID


def write_checkpoint(network: Network, words: Tokenizer, folder: Path) -> None:
    """Writes config.json, generation_config.json, model.safetensors in bf16, tokenizer and chat template."""
    tokenizer.save(words, folder)
    (folder / "config.json").write_text(json.dumps(config_of(network.geometry), indent=2) + "\n")
    generation = {"bos_token_id": BOS_ID, "eos_token_id": EOS_ID}
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    tensors = {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in network.state_dict().items()}
    write_tensors(tensors, folder / "model.safetensors")


def write_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Writes a safetensors file that everybody may read, atomically."""
    with replacing(path) as beside:
        save_file(tensors, beside, metadata={"format": "pt"})
