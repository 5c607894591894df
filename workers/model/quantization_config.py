"""Reads `quantization_config` of a config.json: compressed-tensors, AWQ and GPTQ, as far as their layouts are public.

It is read by a list of what is allowed, like an adapter's config: every key and value that would change the numbers in
a way that is not done here is refused by name.

Sources: the configs that compressed-tensors 0.20, AutoAWQ 0.2.9 and GPTQModel 7.7 write.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from trimode.kernels.linear.quantized import GROUP_SIZES, Scheme
from trimode.workers.model.json_values import is_integer, show

Json = Mapping[str, object]
Values = dict[str, tuple[object, ...]]

GROUP_MULTIPLE = GROUP_SIZES[-1]
"""Stored groups have a multiple of this many inputs."""
WHOLE_ROW = -1
"""Stands for a group as wide as the matrix, in the files of all methods."""


class Method(StrEnum):
    """Who packed the weights."""

    compressed_tensors = "compressed-tensors"
    awq = "awq"
    gptq = "gptq"


@dataclass(frozen=True, slots=True)
class Groups:
    """How scales are shared inside a stored w4a16 matrix."""

    size: int
    """Inputs per scale, or WHOLE_ROW."""
    symmetric: bool
    """True if no zeros are stored: all of them are 8."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredQuantization:
    """How the quantised matrices of a checkpoint are packed."""

    method: Method
    scheme: Scheme
    groups: tuple[Groups, ...] = ()
    """w4a16: every kind of groups that its matrices may have."""
    zeros_less_one: bool = False
    """True if every stored zero is one less than the zero meant (GPTQ's first format)."""


NO_SCHEME: Values = {
    "kv_cache_scheme": (None,),
    "moe_sparsity_config": (None, {}),
    "sparsity_config": (None, {}),
    "transform_config": (None, {}),
}
COMPRESSED: Values = NO_SCHEME | {
    "format": ("pack-quantized", "float-quantized"),
    "quantization_status": ("compressed",),
}
COMPRESSED_NO_EFFECT = frozenset(
    {"quant_method", "config_groups", "ignore", "global_compression_ratio", "run_compressed", "version"}
)
"""Keys of compressed-tensors that change nothing here: which matrices are quantised is seen in the files."""
GROUP_KEYS = frozenset({"targets", "weights", "input_activations", "output_activations", "format"})
ARGS_NO_EFFECT = frozenset({"observer", "observer_kwargs", "scale_dtype", "zp_dtype"})
INT8_BITS = 8
INT4: Values = {
    "num_bits": (4, INT8_BITS),
    "type": ("int",),
    "symmetric": (True, False),
    "strategy": ("group", "channel"),
    "dynamic": (False,),
    # `weight` only changes how codes were chosen; `group` would store an order of the inputs.
    "actorder": (None, False, "weight", "static"),
    "block_structure": (None,),
}
INT8: Values = INT4 | {"symmetric": (True,), "strategy": ("channel",), "group_size": (None, WHOLE_ROW)}
"""Integers of 8 bits: a scale for each output."""
FP8: Values = {
    "num_bits": (8,),
    "type": ("float",),
    "symmetric": (True,),
    "strategy": ("channel", "tensor"),
    "dynamic": (False,),
    "actorder": (None, False),
    "block_structure": (None,),
    "group_size": (None, WHOLE_ROW),
}
ROWS: Values = FP8 | {"strategy": ("token",), "dynamic": (True,), "group_size": (None,)}
"""Rows in fp8: each gets its own scale while the model runs."""

AWQ: Values = {"bits": (4,), "version": ("gemm", "GEMM"), "zero_point": (True,)}
AWQ_NO_EFFECT = frozenset({
    "quant_method", "group_size", "modules_to_not_convert", "do_fuse", "exllama_config", "fuse_max_seq_len",
    "modules_to_fuse", "backend",
})  # fmt: skip
GPTQ: Values = {
    "bits": (4,),
    "desc_act": (False,),
    "sym": (True, False),
    "checkpoint_format": ("gptq", "gptq_v2"),
    "format": ("gptq", "gptq_v2"),
    "pack_dtype": ("int32",),
    "lm_head": (False, None),
    "dynamic": (None, {}),
    "adapter": (None,),
    "rotation": (None,),
    "is_marlin_format": (False,),
}
GPTQ_NO_EFFECT = frozenset({
    "quant_method", "method", "group_size", "damp_percent", "damp_auto_increment", "static_groups", "true_sequential",
    "mse", "act_group_aware", "model_name_or_path", "model_file_base_name", "meta", "tokenizer", "dataset", "backend",
    "block_name_to_quantize", "module_name_preceding_first_block", "modules_in_block_to_quantize", "batch_size",
    "pad_token_id", "use_exllama", "max_input_length", "exllama_config", "cache_block_outputs", "use_cuda_fp16",
    "model_seqlen", "hyb_act",
})  # fmt: skip


def read_quantization(raw: Json) -> StoredQuantization | None:
    """Returns how a checkpoint is packed, from its config.json without problems; None if it is not quantised."""
    config = raw.get("quantization_config")
    if not isinstance(config, dict):
        return None
    method = Method(str(config["quant_method"]))
    if method is Method.compressed_tensors:
        parts = [part["weights"] for part in config["config_groups"].values()]
        if config["format"] == "float-quantized":
            return StoredQuantization(method=method, scheme=Scheme.fp8)
        if _in_int8(parts[0]):
            return StoredQuantization(method=method, scheme=Scheme.w8a16)
        kinds = [Groups(_group_size(part), bool(part.get("symmetric", True))) for part in parts]
        return StoredQuantization(method=method, scheme=Scheme.w4a16, groups=tuple(dict.fromkeys(kinds)))
    groups = (Groups(int(config["group_size"]), symmetric=False),)
    first = method is Method.gptq and "gptq_v2" not in (config.get("checkpoint_format"), config.get("format"))
    return StoredQuantization(method=method, scheme=Scheme.w4a16, groups=groups, zeros_less_one=first)


def quantization_problems(raw: Json) -> list[str]:
    """Returns what is missing, wrong or not done here, each named by its key; [] also without quantization_config."""
    config, at = raw.get("quantization_config"), "quantization_config"
    if config is None:
        return []
    if not isinstance(config, dict):
        return [f"{at}: got {show(config)}; valid: an object"]
    method = config.get("quant_method")
    if method == Method.compressed_tensors:
        return _compressed_problems(at, config)
    if method == Method.awq:
        found = _wrong(at, config, AWQ, AWQ_NO_EFFECT, required=("bits", "group_size", "zero_point"))
        return found + _wrong_size(at, config)
    if method == Method.gptq:
        found = _wrong(at, config, GPTQ, GPTQ_NO_EFFECT, required=("bits", "group_size", "desc_act"))
        formats = {config[name] for name in ("checkpoint_format", "format") if isinstance(config.get(name), str)}
        if len(formats) > 1:
            found.append(f"{at}.format: got {show(config['format'])}; valid: the same as checkpoint_format")
        return found + _wrong_size(at, config)
    return [f"{at}.quant_method: got {show(method)}; valid: {', '.join(map(repr, map(str, Method)))}"]


def _compressed_problems(at: str, config: Json) -> list[str]:
    problems = _wrong(at, config, COMPRESSED, COMPRESSED_NO_EFFECT, required=("format", "quantization_status"))
    groups = config.get("config_groups")
    if not isinstance(groups, dict) or not groups:
        return [*problems, f"{at}.config_groups: got {show(groups)}; valid: an object with at least one entry"]
    for name, group in groups.items():
        here = f"{at}.config_groups.{name}"
        if not isinstance(group, dict):
            problems.append(f"{here}: got {show(group)}; valid: an object")
            continue
        problems += _group_problems(here, group, str(config.get("format")))
    weights = [group.get("weights") for group in groups.values() if isinstance(group, dict)]
    if len({_in_int8(part) for part in weights if isinstance(part, dict)}) > 1:
        problems.append(f"{at}.config_groups: got groups of 4 and of 8 bits; valid: all of them alike")
    return problems


def _group_problems(at: str, group: Json, packing: str) -> list[str]:
    """Returns what is wrong with one entry of config_groups."""
    same: Values = {"output_activations": (None,), "format": (None, packing)}
    problems = _wrong(at, group, same, GROUP_KEYS, required=())
    in_fp8 = packing == "float-quantized"
    weights, rows = group.get("weights"), group.get("input_activations")
    if not isinstance(weights, dict):
        problems.append(f"{at}.weights: got {show(weights)}; valid: an object")
    elif in_fp8 or _in_int8(weights):
        valid_here = FP8 if in_fp8 else INT8
        needed = ("num_bits", "type", "strategy")
        problems += _wrong(f"{at}.weights", weights, valid_here, ARGS_NO_EFFECT, required=needed)
    else:
        here = f"{at}.weights"
        problems += _wrong(here, weights, INT4, ARGS_NO_EFFECT | {"group_size"}, required=("num_bits", "type"))
        problems += _wrong_size(here, weights) if _is_grouped(weights) else []
    if in_fp8 and isinstance(rows, dict):
        problems += _wrong(
            f"{at}.input_activations", rows, ROWS, ARGS_NO_EFFECT, required=("num_bits", "type", "dynamic")
        )
    elif in_fp8 or rows is not None:
        valid = "an object: e4m3 rows, one scale per token, dynamic" if in_fp8 else "null: rows stay in 16 bits"
        problems.append(f"{at}.input_activations: got {show(rows)}; valid: {valid}")
    return problems


def _wrong(at: str, raw: Json, valid: Values, no_effect: frozenset[str], required: tuple[str, ...]) -> list[str]:
    """Returns what `raw` has that is neither among the valid values nor without effect."""
    problems = [f"{at}.{key} is missing" for key in required if key not in raw]
    for key, value in raw.items():
        if key in valid:
            if not any(type(value) is type(one) and value == one for one in valid[key]):
                problems.append(f"{at}.{key}: got {show(value)}; valid: {', '.join(map(repr, valid[key]))}")
        elif key not in no_effect:
            problems.append(f"{at}.{key}: unknown; valid: a config without it")
    return problems


def _in_int8(weights: Json) -> bool:
    """True for integers of 8 bits, which are read where a scale belongs to a whole row."""
    return weights.get("num_bits") == INT8_BITS and weights.get("type") != "float"


def _is_grouped(weights: Json) -> bool:
    """True unless a scale of compressed-tensors belongs to a whole row."""
    return weights.get("strategy") != "channel"


def _group_size(weights: Json) -> int:
    size = weights.get("group_size")
    return size if _is_grouped(weights) and isinstance(size, int) else WHOLE_ROW


def _wrong_size(at: str, raw: Json) -> list[str]:
    size = raw.get("group_size")
    if size == WHOLE_ROW or (is_integer(size, GROUP_MULTIPLE) and isinstance(size, int) and not size % GROUP_MULTIPLE):
        return []
    return [f"{at}.group_size: got {show(size)}; valid: a multiple of {GROUP_MULTIPLE}, or {WHOLE_ROW} for a whole row"]
