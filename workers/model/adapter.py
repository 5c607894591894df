"""Reads a LoRA adapter in peft's own layout: o_proj of every layer, the drafter of linear_spec.

The caller decides when the adapter is on. The config is read by a list of what is allowed: every key and value that is
not plain LoRA is refused by name, because it could change results silently. So is an adapter of another base model.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from trimode.core.errors import ConfigError
from trimode.kernels import linear
from trimode.kernels.linear import Prepared
from trimode.kernels.low_rank import add_low_rank, is_fused
from trimode.workers.model.batch import Batch
from trimode.workers.model.checkpoint import ModelConfig, WeightFiles, read_json
from trimode.workers.model.json_values import not_integer, not_number, show

RANK_MULTIPLE = 16
"""The rank is padded to a multiple of this, because the CPU kernels multiply whole vectors."""
VALUES: dict[str, tuple[object, ...]] = {
    "peft_type": ("LORA",),
    "target_modules": (["o_proj"], "o_proj"),
    # Where training starts. The other ways to start (pissa, olora, corda, ...) change the base weights too.
    "init_lora_weights": (True, False, "gaussian", None),
    "bias": ("none", None),
    "rank_pattern": ({}, None),
    "alpha_pattern": ({}, None),
    "loftq_config": ({}, None),
    "modules_to_save": (None, []),
    "layers_pattern": (None, []),
    "exclude_modules": (None, []),
    "target_parameters": (None, []),
    "trainable_token_indices": (None, []),
    **dict.fromkeys(("use_rslora", "use_dora", "use_qalora", "fan_in_fan_out", "lora_bias"), (False, None)),
    **dict.fromkeys(("ensure_weight_tying", "use_bdlora"), (False, None)),
    **dict.fromkeys(("alora_invocation_tokens", "arrow_config", "corda_config", "eva_config", "kasa_config"), (None,)),
    **dict.fromkeys(("layer_replication", "layers_to_transform", "lora_ga_config", "megatron_config"), (None,)),
    **dict.fromkeys(("monteclora_config", "velora_config"), (None,)),
}
"""Keys of peft's LoraConfig that change the result, each with the values that mean plain LoRA on o_proj."""
NUMBERS = ("r", "lora_alpha")
"""Keys that the scale and the shapes come from."""
NO_EFFECT = frozenset({
    "auto_mapping", "base_model_name_or_path", "inference_mode", "lora_dropout", "megatron_core", "peft_version",
    "qalora_group_size", "revision", "runtime_config", "task_type",
})  # fmt: skip
"""Keys that change nothing at inference while those of VALUES are as they must be."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """LoRA factors per layer: y = W x + scale * B (A x) on o_proj."""

    scale: float
    """lora_alpha / r."""
    a: list[Prepared]
    """`[r, heads * head_dim]` per layer, r padded; empty if `fused` is not."""
    b: list[Prepared]
    """`[hidden, r]` per layer, r padded; empty if `fused` is not."""
    fused: list[tuple[torch.Tensor, torch.Tensor]]
    """a and b per layer as plain tensors, where one kernel does all of `add`: on a GPU."""

    def add(self, y_TH: torch.Tensor, x_TA: torch.Tensor, layer: int, batch: Batch) -> torch.Tensor:
        """Returns `y + scale * B (A x)` for the tokens of the batch that have the adapter on, and y for the others.

        Where the host knows those tokens, they alone are multiplied. In a captured graph the set changes from replay
        to replay: then `lora_T` selects. Tokens without the adapter keep their bits.

        Args:
            y_TH: what o_proj gave, `[T, H]`; may be changed.
            x_TA: what o_proj got, `[T, heads * head_dim]`.
            layer: number of the layer.
            batch: `lora_T` is not None.
        """
        assert batch.lora_T is not None
        if self.fused:
            add_low_rank(y_TH, x_TA, *self.fused[layer], self.scale, batch.lora_T)
            return y_TH
        a, b = self.a[layer], self.b[layer]
        if batch.lora_all:
            return y_TH + linear.apply(linear.apply(x_TA, a), b) * self.scale
        if batch.lora_rows is not None:
            added = linear.apply(linear.apply(x_TA[batch.lora_rows], a), b) * self.scale
            return y_TH.index_add(0, batch.lora_rows, added)
        added = linear.apply(linear.apply(x_TA, a), b) * self.scale
        return torch.where(batch.lora_T.unsqueeze(1) != 0, y_TH + added, y_TH)


def _tensor_name(layer: int, side: str) -> str:
    return f"base_model.model.encoder.layers.{layer}.self_attn.o_proj.lora_{side}.weight"


def _problems(raw: dict[str, object]) -> list[str]:
    """Returns what an adapter's config asks for and this engine does not do, each named by its key."""
    problems = [
        f"{key}: got {show(raw[key])}; valid: {', '.join(map(repr, valid))}"
        for key, valid in VALUES.items()
        if key in raw and not any(type(raw[key]) is type(value) and raw[key] == value for value in valid)
    ]
    problems += [f"{key} is missing" for key in (*NUMBERS, "target_modules") if raw.get(key) is None]
    known = NO_EFFECT.union(VALUES, NUMBERS)
    problems += [f"{key}: unknown; valid: plain LoRA on o_proj, without it" for key in sorted(set(raw) - known)]
    if not problems:
        problems += not_integer(raw, "r", 1) + not_number(raw, "lora_alpha", above=0.0)
    return problems


def open_adapter(folder: Path, config: ModelConfig) -> tuple[WeightFiles, float]:
    """Checks the adapter against the model and returns its files and its scale. Reads headers only.

    Raises:
        ConfigError: names what does not fit.
    """
    path = folder / "adapter_config.json"
    raw = read_json(path)
    if problems := _problems(raw):
        raise ConfigError(f"adapter: {path}: " + "; ".join(problems))
    rank, alpha = raw["r"], raw["lora_alpha"]
    assert isinstance(rank, int)
    assert isinstance(alpha, int | float)
    files = WeightFiles([folder / "adapter_model.safetensors"])
    q_width = config.num_heads * config.head_dim
    expected: dict[str, tuple[int, ...]] = {}
    for layer in range(config.num_layers):
        expected[_tensor_name(layer, "A")] = (rank, q_width)
        expected[_tensor_name(layer, "B")] = (config.hidden_size, rank)
    files.check(expected, f"adapter: {folder} does not fit this base model (r {rank}, {config.num_layers} layers)")
    return files, alpha / rank


def load_adapter(
    files: WeightFiles, scale: float, num_layers: int, like: torch.Tensor, *, batch_invariant: bool = False
) -> Adapter:
    """Returns the factors on the device and in the dtype of `like`, the rank padded with zeros.

    They are never quantised, also where the matrix is that they add to. `batch_invariant`: as in `linear.prepare`.

    Raises:
        ConfigError: a factor is not finite in that dtype.
    """

    def load(layer: int, side: str) -> torch.Tensor:
        name = _tensor_name(layer, side)
        factor = files.tensor(name).to(device=like.device, dtype=like.dtype)
        if not factor.isfinite().all():
            raise ConfigError(f"adapter: {files.paths[0]} {name}: got NaN or infinity in {like.dtype}; valid: finite")
        missing = -factor.shape[0 if side == "A" else 1] % RANK_MULTIPLE
        return F.pad(factor, (0, 0, 0, missing) if side == "A" else (0, missing))

    factors = [(load(layer, "A"), load(layer, "B")) for layer in range(num_layers)]
    if is_fused(*factors[0]):
        return Adapter(scale=scale, a=[], b=[], fused=factors)
    prepare = functools.partial(linear.prepare, batch_invariant=batch_invariant)
    a, b = (list(map(prepare, side)) for side in zip(*factors, strict=True))
    return Adapter(scale=scale, a=a, b=b, fused=[])
