"""Writes the demo model as a GGUF file, so that llama.cpp can serve it: python -m trimode.bench.demo_gguf FILE.

Needs the package gguf. llama.cpp decodes it token by token, as mode ar does.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors import safe_open
from trimode.core.command import run_command
from trimode.core.project import PROJECT_DIR

if TYPE_CHECKING:
    import gguf

MODEL = PROJECT_DIR / "assets" / "demo_model"
LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
OTHER_NAMES = {"embed_tokens": "token_embd", "norm": "output_norm", "diffusion_head": "output", "lm_head": "output"}
CONTROL, NORMAL = 3, 1
"""Kinds of tokens in a GGUF file."""


def gguf_name(name: str) -> str:
    """Returns what a tensor of the checkpoint is called in a GGUF file."""
    parts = name.removesuffix(".weight").split(".")
    if "layers" in parts:
        place = parts.index("layers")
        return f"blk.{parts[place + 1]}.{LAYER_NAMES['.'.join(parts[place + 2 :])]}.weight"
    return f"{OTHER_NAMES[parts[-1]]}.weight"


def interleaved(weight: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Returns the rows of a query or key matrix in llama.cpp's order: rotary pairs lie beside each other."""
    rows, columns = weight.shape
    return weight.view(num_heads, 2, rows // num_heads // 2, columns).transpose(1, 2).reshape(rows, columns)


def write(path: Path) -> None:
    """Writes weights, tokenizer and chat template of the demo model to one file."""
    import gguf

    config = json.loads((MODEL / "config.json").read_text())
    rope = config["rope_parameters"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("demo_model")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_rope_scaling_factor(rope["factor"])
    writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    # llama.cpp scales attention by this and by 1 + 0.1 ln(factor); in the checkpoint the two scales cancel out
    writer.add_rope_scaling_attn_factors(1 / (1 + 0.1 * math.log(rope["factor"])))
    _add_tokenizer(writer)
    with safe_open(MODEL / "model.safetensors", "pt") as file:
        for name in file.keys():  # noqa: SIM118 -- this is no dict
            weight = file.get_tensor(name)
            for part, heads in (("q_proj", "num_attention_heads"), ("k_proj", "num_key_value_heads")):
                if part in name:
                    weight = interleaved(weight, config[heads])
            writer.add_tensor(gguf_name(name), weight.float().numpy().astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tokenizer(writer: gguf.GGUFWriter) -> None:
    raw = json.loads((MODEL / "tokenizer.json").read_text())
    special = {entry["content"] for entry in raw["added_tokens"]}
    words = {**raw["model"]["vocab"], **{entry["content"]: entry["id"] for entry in raw["added_tokens"]}}
    tokens = sorted(words, key=words.__getitem__)
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in raw["model"]["merges"]]
    config = json.loads((MODEL / "config.json").read_text())
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list(tokens)
    writer.add_token_types([CONTROL if token in special else NORMAL for token in tokens])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_add_bos_token(False)
    writer.add_chat_template((MODEL / "chat_template.jinja").read_text())


if __name__ == "__main__":
    run_command(lambda: write(Path(sys.argv[1])))
