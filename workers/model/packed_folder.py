"""Writes a quantised checkpoint in the public layout of compressed-tensors: tensors, shards, config.json.

w4a16 is `pack-quantized` with zeros, w8a16 the same without zeros and with one scale per output, fp8 is
`float-quantized` with one scale per output and dynamic rows. The layouts are described in `packed`, which reads them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from trimode.core.files import write_json_atomic
from trimode.kernels.linear.quantized import QuantizedWeight, Scheme, group_size_for, pack
from trimode.workers.model.packed import BYTES_PER_WORD, PER_WORD, SIGN_BIT

Tensors = dict[str, torch.Tensor]
Shapes = Mapping[str, tuple[int, int]]
FORMATS = {Scheme.fp8: "float-quantized", Scheme.w8a16: "pack-quantized", Scheme.w4a16: "pack-quantized"}


def packed_tensors(weight: QuantizedWeight) -> Tensors:
    """Returns the tensors that stand for one matrix, by the last part of their names."""
    if weight.scheme is Scheme.fp8:
        return {"weight": weight.codes.cpu(), "weight_scale": weight.scales.cpu()[:, None].contiguous()}
    shape = torch.tensor([weight.num_outputs, weight.num_inputs])
    if weight.scheme is Scheme.w8a16:
        return {
            "weight_packed": (weight.codes.cpu().view(torch.uint8) ^ SIGN_BIT).view(torch.int32),
            "weight_scale": weight.scales.cpu()[:, None].contiguous(),
            "weight_shape": shape,
        }
    assert weight.zeros is not None
    missing = -weight.num_outputs % PER_WORD
    zeros_GO = F.pad(weight.zeros.cpu().T, (0, missing)).contiguous()
    return {
        "weight_packed": weight.codes.cpu().view(torch.int32),
        "weight_scale": weight.scales.cpu().bfloat16(),  # exact, see `quantize`
        "weight_zero_point": pack(zeros_GO).view(torch.int32).T.contiguous(),
        "weight_shape": shape,
    }


def packed_bytes(shape: tuple[int, int], scheme: Scheme) -> int:
    """Returns the bytes of what `packed_tensors` makes of a matrix `(O, I)`. ValueError if it cannot be packed."""
    outputs, inputs = shape
    if scheme is Scheme.fp8:
        return outputs * inputs + 4 * outputs
    if scheme is Scheme.w8a16:
        if inputs % BYTES_PER_WORD:
            raise ValueError(f"w8a16: got {inputs} inputs, expected a multiple of {BYTES_PER_WORD}")
        return outputs * inputs + 4 * outputs + 16
    groups = inputs // group_size_for(inputs)
    return outputs * inputs // 2 + 2 * outputs * groups + 4 * -(-outputs // PER_WORD) * groups + 16


def quantization_config(scheme: Scheme, quantized: Shapes, plain: list[str]) -> dict[str, object]:
    """Returns the `quantization_config` of a checkpoint: one group of matrices per number of inputs that share a scale.

    Args:
        scheme: of all quantised matrices.
        quantized: their names and shapes `(O, I)`.
        plain: names of the other linear layers.
    """
    if scheme is Scheme.fp8:
        rows = _arguments(8, "float", "token", symmetric=True, dynamic=True)
        groups = {"group_0": _group(["Linear"], _arguments(8, "float", "channel", symmetric=True), rows, scheme)}
    elif scheme is Scheme.w8a16:
        weights = _arguments(8, "int", "channel", symmetric=True)
        groups = {"group_0": _group(["Linear"], weights, None, scheme)}
    else:
        sizes = {name: group_size_for(shape[1]) for name, shape in quantized.items()}
        found = sorted(set(sizes.values()), reverse=True)
        groups = {}
        for number, size in enumerate(found):
            kinds = dict.fromkeys(name.rpartition(".")[2] for name in sizes if sizes[name] == size)
            targets = ["Linear"] if len(found) == 1 else [f"re:.*{kind}$" for kind in kinds]
            weights = _arguments(4, "int", "group", symmetric=False) | {"group_size": size}
            groups[f"group_{number}"] = _group(targets, weights, None, scheme)
    return {
        "quant_method": "compressed-tensors",
        "format": FORMATS[scheme],
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": plain,
        "kv_cache_scheme": None,
        "global_compression_ratio": None,
    }


def _group(targets: list[str], weights: object, rows: object, scheme: Scheme) -> dict[str, object]:
    return {
        "targets": targets,
        "weights": weights,
        "input_activations": rows,
        "output_activations": None,
        "format": FORMATS[scheme],
    }


def _arguments(bits: int, kind: str, strategy: str, *, symmetric: bool, dynamic: bool = False) -> dict[str, object]:
    return {
        "num_bits": bits,
        "type": kind,
        "strategy": strategy,
        "symmetric": symmetric,
        "dynamic": dynamic,
        "group_size": None,
        "actorder": None,
        "block_structure": None,
    }


def write_shards(
    folder: Path, sizes: Mapping[str, int], make: Callable[[str], Tensors], shard_bytes: int
) -> Iterator[str]:
    """Writes tensors to as few files as fit and yields each name of `sizes` once it is made; the index comes last.

    Args:
        folder: gets `model.safetensors`, or shards and `model.safetensors.index.json`.
        sizes: bytes that `make` returns for each name, in the order of the files.
        make: returns the tensors of one name under their full names; called once per name.
        shard_bytes: size from which a new file is begun.
    """
    shards: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if shards[-1] and filled + size > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file = "model.safetensors" if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        tensors: Tensors = {}
        for name in names:
            made = make(name)
            tensors |= made
            weight_map |= dict.fromkeys(made, file)
            yield name
        save_file(tensors, folder / file, metadata={"format": "pt"})
    if len(shards) > 1:
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
        write_json_atomic(folder / "model.safetensors.index.json", index)


def write_config(source: Path, folder: Path, quantization: dict[str, object]) -> None:
    """Writes the checkpoint's config.json with its quantisation: a folder without it is no checkpoint."""
    raw = json.loads((source / "config.json").read_text(encoding="utf-8"))
    write_json_atomic(folder / "config.json", raw | {"quantization_config": quantization})
