"""Reads the released checkpoint layout: config.json into a ModelConfig, tensor names and shapes checked before loading.

Code that comes with a checkpoint is never run. Every size is read, none is derived or defaulted, because the three
released sizes share a config class whose defaults fit only one of them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from trimode.core.errors import ConfigError
from trimode.workers.model.json_values import MAX_INTEGER, is_integer, not_integer, not_number, show
from trimode.workers.model.quantization_config import StoredQuantization, quantization_problems, read_quantization
from trimode.workers.model.rope_config import RopeConfig, read_rope, rope_problems

MODEL_TYPE = "nemotron_labs_diffusion"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SIZES = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "max_position_embeddings",
)  # fmt: skip
REQUIRED_KEYS = (*SIZES, "rms_norm_eps", "eos_token_id", "mask_token_id")
FIXED_KEYS: dict[str, object] = {
    "tie_word_embeddings": False, "attention_bias": False, "mlp_bias": False, "sliding_window": None,
    "hidden_act": "silu",
}  # fmt: skip
"""Keys with which the architecture could vary, and the only value that is supported. Null is the same as absent."""
MAX_LAYERS = 4096
FLOAT_DTYPES = frozenset({"F64", "F32", "F16", "BF16"})
"""Stored dtypes that may be cast to the dtype of the model."""


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
    stored: StoredQuantization | None = None
    """How the checkpoint's matrices are packed; None if they are plain."""

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
    except OSError as error:
        raise ConfigError(f"checkpoint: {path} cannot be read: {error}") from None
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, an integer of 5,000 digits, nested too deep
        raise ConfigError(f"checkpoint: {path} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"checkpoint: {path} must hold an object, got {type(value).__name__}")
    return value


def _id_problems(raw: dict[str, object]) -> list[str]:
    """Returns what is wrong with the token ids of a config.json whose vocab_size is right."""
    vocab = raw["vocab_size"]
    assert isinstance(vocab, int)
    problems = not_integer(raw, "mask_token_id", 0, vocab - 1)
    for key in ("bos_token_id", "pad_token_id"):
        problems += not_integer(raw, key, 0, vocab - 1) if raw.get(key) is not None else []
    eos = raw["eos_token_id"]
    ends = eos if isinstance(eos, list) else [eos]
    if not ends or not all(is_integer(end, 0, vocab - 1) for end in ends):
        problems.append(f"eos_token_id: got {show(eos)}; valid: an integer from 0 to {vocab - 1}, or a list of them")
    elif raw["mask_token_id"] in ends:
        problems.append(f"mask_token_id: got {show(raw['mask_token_id'])}; valid: no end token")
    return problems


def _config_problems(raw: dict[str, object]) -> list[str]:
    """Returns everything that is missing, wrong or unsupported in a config.json, each named by its key."""
    problems = [f"{key} is missing" for key in REQUIRED_KEYS if raw.get(key) is None]
    problems += [
        f"{key}: got {show(raw[key])}; valid: {only!r}"
        for key, only in FIXED_KEYS.items()
        if raw.get(key) is not None and raw[key] != only
    ]
    problems += rope_problems(raw) + quantization_problems(raw)
    if problems:
        return problems
    for key in SIZES:
        problems += not_integer(raw, key, 1, MAX_LAYERS if key == "num_hidden_layers" else MAX_INTEGER)
    problems += not_number(raw, "rms_norm_eps", above=0.0)
    if problems:
        return problems
    heads, kv_heads, head_dim = (raw[key] for key in ("num_attention_heads", "num_key_value_heads", "head_dim"))
    assert isinstance(heads, int)
    assert isinstance(kv_heads, int)
    assert isinstance(head_dim, int)
    if heads % kv_heads:
        problems.append(
            f"num_key_value_heads: got {kv_heads}; valid: a divisor of num_attention_heads, which is {heads}"
        )
    if head_dim % 2:
        problems.append(f"head_dim: got {head_dim}; valid: an even number, since RoPE rotates halves")
    return problems + _id_problems(raw)


def read_config(folder: Path, max_position_embeddings: int | None = None) -> ModelConfig:
    """Returns the config of a checkpoint folder.

    Args:
        folder: holds config.json.
        max_position_embeddings: context limit in place of the checkpoint's own; None = its own.

    Raises:
        ConfigError: lists every missing, wrong or unsupported key at once.
    """
    path = folder / "config.json"
    raw: dict[str, Any] = read_json(path)
    if raw.get("model_type") != MODEL_TYPE:
        raise ConfigError(f"checkpoint: {path} model_type: got {show(raw.get('model_type'))}; valid: {MODEL_TYPE!r}")
    if problems := _config_problems(raw):
        raise ConfigError(f"checkpoint: {path}: " + "; ".join(problems))
    if max_position_embeddings is not None and not is_integer(max_position_embeddings, 1):
        raise ConfigError(
            f"max_position_embeddings: got {show(max_position_embeddings)}; valid: an integer from 1 to {MAX_INTEGER}"
        )
    eos = raw["eos_token_id"]
    return ModelConfig(
        vocab_size=raw["vocab_size"],
        hidden_size=raw["hidden_size"],
        intermediate_size=raw["intermediate_size"],
        num_layers=raw["num_hidden_layers"],
        num_heads=raw["num_attention_heads"],
        num_kv_heads=raw["num_key_value_heads"],
        head_dim=raw["head_dim"],
        max_position_embeddings=max_position_embeddings or raw["max_position_embeddings"],
        rms_norm_eps=float(raw["rms_norm_eps"]),
        eos_token_ids=tuple(eos) if isinstance(eos, list) else (eos,),
        mask_token_id=raw["mask_token_id"],
        rope=read_rope(raw, raw["max_position_embeddings"]),
        stored=read_quantization(raw),
    )


def expected_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Returns name and shape of every tensor of the released layout, not quantised: 9 per layer and 3 more."""
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
        self.dtypes: dict[str, str] = {}
        for path in paths:
            try:
                file = safe_open(str(path), framework="pt")
                for name in file.keys():  # noqa: SIM118 -- safe_open is no mapping
                    self._files[name] = file
                    header = file.get_slice(name)
                    self.shapes[name] = tuple(header.get_shape())
                    self.dtypes[name] = str(header.get_dtype())
            except FileNotFoundError:
                raise ConfigError(f"checkpoint: {path} is missing") from None
            except (SafetensorError, OSError) as error:
                raise ConfigError(f"checkpoint: {path} is truncated or no safetensors file: {error}") from None

    def tensor(self, name: str) -> torch.Tensor:
        """Returns the tensor `name`, on the CPU in its stored dtype."""
        tensor: torch.Tensor = self._files[name].get_tensor(name)
        return tensor

    def check(
        self,
        expected: Mapping[str, tuple[int, ...]],
        what: str,
        dtypes: Mapping[str, frozenset[str]] | None = None,
    ) -> None:
        """ConfigError that lists every tensor that is missing, extra, of a wrong shape or of a wrong dtype.

        `dtypes`: those that a tensor may have; any float if it is not named.
        """
        valid = {name: (dtypes or {}).get(name, FLOAT_DTYPES) for name in expected}
        problems = [f"missing {name}" for name in expected if name not in self.shapes]
        problems += [f"extra {name}" for name in self.shapes if name not in expected]
        problems += [
            f"{name} has shape {list(self.shapes[name])}, expected {list(shape)}"
            for name, shape in expected.items()
            if name in self.shapes and self.shapes[name] != shape
        ]
        problems += [
            f"{name} has dtype {dtype}, valid: {', '.join(sorted(valid[name]))}"
            for name, dtype in self.dtypes.items()
            if name in expected and dtype not in valid[name]
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
