"""The tri-mode network as it is trained: explicit positions and an explicit attention mask.

Shapes: B rows, T positions, H hidden, N heads, D head size. Tensor names are those of the released checkpoints."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Geometry:
    """Sizes of the network; the names are those of config.json."""

    vocab_size: int
    hidden_size: int = 192
    intermediate_size: int = 512
    num_hidden_layers: int = 4
    num_attention_heads: int = 6
    num_key_value_heads: int = 2
    head_dim: int = 32
    rope_theta: float = 100.0  # rows are short: most frequencies should tell neighbours apart
    rope_factor: float = 16.0
    original_max_position_embeddings: int = 1024
    rms_norm_eps: float = 1e-5


def rope_frequencies(geometry: Geometry) -> Tensor:
    """Returns YaRN inverse frequencies, one per pair of head channels."""
    size, theta = geometry.head_dim, geometry.rope_theta

    def channel(turns: float) -> float:
        span = geometry.original_max_position_embeddings / (2 * math.pi * turns)
        return size * math.log(span) / (2 * math.log(theta))

    low, high = max(math.floor(channel(32)), 0), min(math.ceil(channel(1)), size - 1)
    index = torch.arange(size // 2, dtype=torch.float64)
    extrapolated = theta ** (-2 * index / size)
    ramp = ((index - low) / (high - low)).clamp(0, 1)
    return (extrapolated / geometry.rope_factor * ramp + extrapolated * (1 - ramp)).float()


class Attention(nn.Module):
    """Grouped-query attention under a given mask."""

    def __init__(self, geometry: Geometry) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.size = (
            geometry.num_attention_heads,
            geometry.num_key_value_heads,
            geometry.head_dim,
        )
        hidden = geometry.hidden_size
        self.q_proj = nn.Linear(hidden, self.heads * self.size, bias=False)
        self.k_proj = nn.Linear(hidden, self.kv_heads * self.size, bias=False)
        self.v_proj = nn.Linear(hidden, self.kv_heads * self.size, bias=False)
        self.o_proj = nn.Linear(self.heads * self.size, hidden, bias=False)

    def forward(self, x_bth: Tensor, rope: tuple[Tensor, Tensor], mask_btt: Tensor) -> Tensor:
        """Returns the attention output [B, T, H]."""
        rows, length, _ = x_bth.shape
        q, k, v = (
            projection(x_bth).view(rows, length, -1, self.size).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = rotate(q, *rope), rotate(k, *rope)
        groups = self.heads // self.kv_heads
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask_btt[:, None])
        mixed: Tensor = self.o_proj(out.transpose(1, 2).reshape(rows, length, -1))
        return mixed


def rotate(x_bntd: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Half-split rotation by position."""
    first, second = x_bntd.chunk(2, dim=-1)
    cos, sin = cos.to(x_bntd.dtype), sin.to(x_bntd.dtype)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


class Mlp(nn.Module):
    """SwiGLU."""

    def __init__(self, geometry: Geometry) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(geometry.hidden_size, geometry.intermediate_size, bias=False)
        self.up_proj = nn.Linear(geometry.hidden_size, geometry.intermediate_size, bias=False)
        self.down_proj = nn.Linear(geometry.intermediate_size, geometry.hidden_size, bias=False)

    def forward(self, x_bth: Tensor) -> Tensor:
        """Returns the MLP output [B, T, H]."""
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x_bth)) * self.up_proj(x_bth))
        return out


class Layer(nn.Module):
    """One pre-norm decoder layer."""

    def __init__(self, geometry: Geometry) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(geometry.hidden_size, eps=geometry.rms_norm_eps)
        self.self_attn = Attention(geometry)
        self.post_attention_layernorm = nn.RMSNorm(geometry.hidden_size, eps=geometry.rms_norm_eps)
        self.mlp = Mlp(geometry)

    def forward(self, x_bth: Tensor, rope: tuple[Tensor, Tensor], mask_btt: Tensor) -> Tensor:
        """Returns the residual stream after this layer."""
        x_bth = x_bth + self.self_attn(self.input_layernorm(x_bth), rope, mask_btt)
        out: Tensor = x_bth + self.mlp(self.post_attention_layernorm(x_bth))
        return out


class Encoder(nn.Module):
    """Embedding, layers, final norm."""

    def __init__(self, geometry: Geometry) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(geometry.vocab_size, geometry.hidden_size)
        self.layers = nn.ModuleList(Layer(geometry) for _ in range(geometry.num_hidden_layers))
        self.norm = nn.RMSNorm(geometry.hidden_size, eps=geometry.rms_norm_eps)


class Network(nn.Module):
    """The whole network with its one head."""

    def __init__(self, geometry: Geometry) -> None:
        super().__init__()
        self.geometry = geometry
        self.encoder = Encoder(geometry)
        self.diffusion_head = nn.Linear(geometry.hidden_size, geometry.vocab_size, bias=False)
        self.register_buffer("frequencies", rope_frequencies(geometry), persistent=False)

    def initialise(self, seed: int) -> None:
        """Random weights; the outputs of each layer start small.

        Embeddings start at the size of what layers add to them, and share one direction: attention by distance alone,
        which every lookup is built on, is a product with that direction."""
        torch.manual_seed(seed)
        depth = (2 * self.geometry.num_hidden_layers) ** -0.5
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                spread = 0.7 if "embed" in name else 0.02 if "head" in name else parameter.shape[1] ** -0.5
                nn.init.normal_(parameter, std=spread * (depth if "o_proj" in name or "down_proj" in name else 1))
        with torch.no_grad():
            self.encoder.embed_tokens.weight.add_(0.5 * torch.randn(self.geometry.hidden_size))

    def hidden(self, ids_bt: Tensor, positions_bt: Tensor, mask_btt: Tensor) -> Tensor:
        """Returns the final hidden states [B, T, H]; mask_btt is True where a query may see a key."""
        angles = positions_bt[:, None, :, None].float() * self.get_buffer("frequencies")
        rope = (angles.cos(), angles.sin())
        x_bth = self.encoder.embed_tokens(ids_bt)
        for layer in self.encoder.layers:
            x_bth = layer(x_bth, rope, mask_btt)
        normed: Tensor = self.encoder.norm(x_bth)
        return normed

    def logits(self, ids_bt: Tensor, positions_bt: Tensor, mask_btt: Tensor) -> Tensor:
        """Returns logits [B, T, V] of every position."""
        out: Tensor = self.diffusion_head(self.hidden(ids_bt, positions_bt, mask_btt))
        return out


def config_of(geometry: Geometry) -> dict[str, Any]:
    """Returns config.json in the released layout."""
    longest = int(geometry.original_max_position_embeddings * geometry.rope_factor)
    return {
        "architectures": ["NemotronLabsDiffusionModel"],
        "model_type": "nemotron_labs_diffusion",
        "auto_map": {
            "AutoConfig": "configuration_nemotron_labs_diffusion.NemotronLabsDiffusionConfig",
            "AutoModel": "modeling_nemotron_labs_diffusion.NemotronLabsDiffusionModel",
        },
        "vocab_size": geometry.vocab_size,
        "hidden_size": geometry.hidden_size,
        "intermediate_size": geometry.intermediate_size,
        "num_hidden_layers": geometry.num_hidden_layers,
        "num_attention_heads": geometry.num_attention_heads,
        "num_key_value_heads": geometry.num_key_value_heads,
        "head_dim": geometry.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": longest,
        "rms_norm_eps": geometry.rms_norm_eps,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": geometry.rope_theta,
            "factor": geometry.rope_factor,
            "original_max_position_embeddings": geometry.original_max_position_embeddings,
            "max_position_embeddings": longest,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
            "llama_4_scaling_beta": 0.1,
        },
        "bos_token_id": 1,
        "eos_token_id": 11,
        "pad_token_id": None,
        "mask_token_id": 100,
        "block_size": 32,
        "dlm_paradigm": "bidirectional",
        "ar_loss_weight": 1.0,
        "dlm_loss_weight": None,
        "tie_word_embeddings": False,
        "attention_bias": False,
        "sliding_window": None,
        "dtype": "bfloat16",
        "torch_dtype": "bfloat16",
    }


def load(folder: Path) -> Network:
    """Returns a network in float32 from an exported folder."""
    config = json.loads((folder / "config.json").read_text())
    rope = config["rope_parameters"]
    network = Network(
        Geometry(
            **{
                name: config[name]
                for name in (
                    "vocab_size",
                    "hidden_size",
                    "intermediate_size",
                    "num_hidden_layers",
                    "num_attention_heads",
                    "num_key_value_heads",
                    "head_dim",
                    "rms_norm_eps",
                )
            },
            rope_theta=rope["rope_theta"],
            rope_factor=rope["factor"],
            original_max_position_embeddings=rope["original_max_position_embeddings"],
        )
    )
    state = {name: tensor.float() for name, tensor in load_file(folder / "model.safetensors").items()}
    network.load_state_dict(state)
    return network
