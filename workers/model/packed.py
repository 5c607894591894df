"""Turns the packed tensors of a quantised checkpoint into quantised weights: names, shapes and bit layouts.

A matrix `[O, I]` with G groups of inputs is stored as
- compressed-tensors, `pack-quantized`: `weight_packed` int32 `[O, I / 8]`, input 0 of a word in its lowest four bits;
  `weight_scale` `[O, G]`; `weight_zero_point` int32 `[O / 8, G]`, packed along the outputs; `weight_shape` int64 `[2]`.
  Of 8 bits: `weight_packed` int32 `[O, I / 4]`, each byte 128 more than its code; `weight_scale` `[O, 1]`.
- compressed-tensors, `float-quantized`: `weight` e4m3 `[O, I]`; `weight_scale` `[O, 1]` or `[1]`.
- AWQ, `gemm`: `qweight` int32 `[I, O / 8]`, whose four-bit places hold outputs 0 2 4 6 1 3 5 7; `qzeros` `[G, O / 8]`
  in the same order; `scales` `[G, O]`.
- GPTQ: `qweight` int32 `[I / 8, O]`, packed along the inputs; `qzeros` int32 `[G, O / 8]`, along the outputs, in the
  first format one less than meant; `scales` `[G, O]`; `g_idx` int32 `[I]`, the group of each input, or absent.

Sources: compressors/pack_quantized of compressed-tensors 0.20, modules/linear/gemm.py of AutoAWQ 0.2.9, pack_original
of GPTQModel 7.7.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from trimode.core.errors import ConfigError
from trimode.kernels.linear.quantized import GROUP_SIZES, QuantizedWeight, Scheme, pack, unpack
from trimode.workers.model.checkpoint import FLOAT_DTYPES, ModelConfig, WeightFiles, expected_shapes
from trimode.workers.model.quantization_config import GROUP_MULTIPLE, WHOLE_ROW, Groups, Method, StoredQuantization

Shape = tuple[int, ...]
I32 = frozenset({"I32"})
PER_WORD = 8
"""Four-bit codes in an int32."""
BYTES_PER_WORD = 4
SIGN_BIT = 0x80
"""What compressed-tensors adds to an 8-bit code, so that it is not negative."""
AWQ_OUTPUTS = (0, 4, 1, 5, 2, 6, 3, 7)
"""Place, in a word of AWQ, of the outputs 0 to 7."""
ONE_EACH = 0x11111111
"""One in each of the eight places of a word."""

NAN = 0x7F
"""Bits of NaN in e4m3, apart from the sign."""


@dataclass(frozen=True, slots=True)
class Part:
    """One tensor of a packed matrix, as a file must have it."""

    shape: Shape
    dtypes: frozenset[str] = FLOAT_DTYPES


SHAPE_PART = Part((2,), frozenset({"I64", "I32"}))


def matrices(config: ModelConfig) -> dict[str, tuple[int, int]]:
    """Returns the names of all matrices that may be quantised, without `.weight`, and their shapes `(O, I)`."""
    shapes = expected_shapes(config)
    return {
        name.removesuffix(".weight"): (shape[0], shape[1])
        for name, shape in shapes.items()
        if len(shape) == 2 and name != "encoder.embed_tokens.weight"
    }


def is_packed(files: WeightFiles, stored: StoredQuantization | None, matrix: str) -> bool:
    """True if the files have this matrix in packed form."""
    if stored is None:
        return False
    if stored.scheme is Scheme.fp8:
        return files.dtypes.get(f"{matrix}.weight") == "F8_E4M3"
    return f"{matrix}.{'weight_packed' if stored.method is Method.compressed_tensors else 'qweight'}" in files.shapes


def check_weights(files: WeightFiles, config: ModelConfig, what: str) -> None:
    """Checks names, shapes and dtypes of all tensors, packed or not. Reads headers only.

    Raises:
        ConfigError: lists what is missing, extra, of a wrong shape or dtype. `what` begins the message.
    """
    stored = config.stored
    expected = {name: Part(shape) for name, shape in expected_shapes(config).items()}
    if stored is not None:
        packed = [name for name in matrices(config) if is_packed(files, stored, name)]
        if not packed:
            raise ConfigError(f"{what}: quantization_config is {stored.method}, but no matrix is packed in that way")
        for name in packed:
            shape = matrices(config)[name]
            del expected[f"{name}.weight"]
            expected |= {f"{name}.{part}": parts for part, parts in _parts(files, stored, name, shape, what).items()}
    shapes = {name: part.shape for name, part in expected.items()}
    files.check(shapes, what, {name: part.dtypes for name, part in expected.items()})


def _parts(
    files: WeightFiles, stored: StoredQuantization, name: str, shape: tuple[int, int], what: str
) -> Mapping[str, Part]:
    """Returns the tensors of one packed matrix."""
    outputs, inputs = shape
    if stored.scheme is Scheme.fp8:
        per_tensor = files.shapes.get(f"{name}.weight_scale")
        scale = per_tensor if per_tensor in ((), (1,)) else (outputs, 1)
        return {"weight": Part(shape, frozenset({"F8_E4M3"})), "weight_scale": Part(scale)}
    if stored.scheme is Scheme.w8a16:
        if inputs % BYTES_PER_WORD:
            raise ConfigError(f"{what}: {name} has {inputs} inputs; valid in w8a16: a multiple of {BYTES_PER_WORD}")
        return {
            "weight_packed": Part((outputs, inputs // BYTES_PER_WORD), I32),
            "weight_scale": Part((outputs, 1)),
            "weight_shape": SHAPE_PART,
        }
    found = _groups_of(files, stored, name, inputs, what)
    groups = 1 if found.size == WHOLE_ROW else inputs // found.size
    words = -(-outputs // PER_WORD)
    if stored.method is Method.compressed_tensors:
        parts = {
            "weight_packed": Part((outputs, inputs // PER_WORD), I32),
            "weight_scale": Part((outputs, groups)),
            "weight_shape": SHAPE_PART,
        }
        return parts if found.symmetric else parts | {"weight_zero_point": Part((words, groups), I32)}
    if outputs % PER_WORD:
        raise ConfigError(f"{what}: {name} has {outputs} outputs; valid in {stored.method}: a multiple of {PER_WORD}")
    parts = {"qzeros": Part((groups, words), I32), "scales": Part((groups, outputs))}
    if stored.method is Method.awq:
        return parts | {"qweight": Part((inputs, words), I32)}
    order = {"g_idx": Part((inputs,), I32)} if f"{name}.g_idx" in files.shapes else {}
    return parts | {"qweight": Part((inputs // PER_WORD, outputs), I32)} | order


def _groups_of(files: WeightFiles, stored: StoredQuantization, name: str, inputs: int, what: str) -> Groups:
    """Returns which of the config's kinds of groups a matrix has. ConfigError if it has none of them."""
    compressed = stored.method is Method.compressed_tensors
    part = f"{name}.weight_scale" if compressed else f"{name}.scales"
    if part not in files.shapes:
        raise ConfigError(f"{what}: missing {part}")
    scales = files.shapes[part]
    symmetric = compressed and f"{name}.weight_zero_point" not in files.shapes
    count = scales[1 if compressed else 0] if len(scales) == 2 else 0
    for kind in stored.groups:
        if kind.symmetric != symmetric or inputs % GROUP_MULTIPLE:
            continue
        if (kind.size == WHOLE_ROW and count == 1) or (kind.size != WHOLE_ROW and kind.size * count == inputs):
            return kind
    valid = ", ".join(f"{kind.size} ({'without' if kind.symmetric else 'with'} zeros)" for kind in stored.groups)
    raise ConfigError(
        f"{what}: {name} has {inputs} inputs and scales {list(scales)}, {'without' if symmetric else 'with'} zeros; "
        f"valid by quantization_config.group_size: {valid}"
    )


def read_packed(files: WeightFiles, stored: StoredQuantization, name: str, dtype: torch.dtype) -> QuantizedWeight:
    """Returns a packed matrix of checked files, on the CPU.

    Groups of other sizes are split into groups of 128, 64 or 32 inputs with the same scale, which changes no number.

    Raises:
        ConfigError: scales that are not finite, a `weight_shape` of another matrix, or inputs in another order.
    """

    def part(kind: str) -> torch.Tensor:
        return files.tensor(f"{name}.{kind}")

    if stored.scheme is Scheme.fp8:
        codes = part("weight")
        scales = part("weight_scale").float().flatten().expand(codes.shape[0]).contiguous()
        return _made(name, stored.scheme, codes, scales, None, dtype)
    if stored.method is Method.compressed_tensors:
        codes = part("weight_packed").view(torch.uint8)
        scales = part("weight_scale").float()
        shape = (codes.shape[0], codes.shape[1] * (1 if stored.scheme is Scheme.w8a16 else 2))
        if tuple(part("weight_shape").tolist()) != shape:
            raise ConfigError(f"checkpoint: {name}.weight_shape: got {part('weight_shape').tolist()}; valid: {shape}")
        if stored.scheme is Scheme.w8a16:
            return _made(name, stored.scheme, (codes ^ SIGN_BIT).view(torch.int8), scales.flatten(), None, dtype)
        zeros = None
        if f"{name}.weight_zero_point" in files.shapes:
            zeros = _nibbles(part("weight_zero_point").T)[:, : shape[0]].T.contiguous()
        return _made(name, stored.scheme, codes, scales, zeros, dtype)
    scales = part("scales").float().T.contiguous()
    if stored.method is Method.awq:
        codes_OI = _outputs_of_awq(part("qweight"))
        return _made(name, stored.scheme, pack(codes_OI), scales, _outputs_of_awq(part("qzeros")), dtype)
    _check_order(files, name, scales.shape[1])
    # GPTQModel takes and adds the one as part of the word, so a zero of 0 borrows from its neighbour, and gets it back.
    words = part("qzeros") + (ONE_EACH if stored.zeros_less_one else 0)
    zeros = _nibbles(words).T.contiguous()
    return _made(name, stored.scheme, pack(_nibbles(part("qweight").T)), scales, zeros, dtype)


def _nibbles(words: torch.Tensor) -> torch.Tensor:
    """Returns the four-bit codes of int32 words `[..., n]` as uint8 `[..., 8 n]`, the lowest place first."""
    return unpack(words.clone(memory_format=torch.contiguous_format).view(torch.uint8))


def _outputs_of_awq(words: torch.Tensor) -> torch.Tensor:
    """Returns the codes of words `[n, O / 8]` as `[O, n]`."""
    codes = _nibbles(words).unflatten(1, (-1, PER_WORD))[..., list(AWQ_OUTPUTS)]
    outputs: torch.Tensor = codes.flatten(1).T.contiguous()
    return outputs


def _check_order(files: WeightFiles, name: str, groups: int) -> None:
    """ConfigError if GPTQ's groups are not runs of neighbouring inputs."""
    if f"{name}.g_idx" not in files.shapes:
        return
    g_idx = files.tensor(f"{name}.g_idx")
    if not torch.equal(g_idx, torch.arange(len(g_idx), dtype=g_idx.dtype) // (len(g_idx) // groups)):
        raise ConfigError(
            f"checkpoint: {name}.g_idx puts inputs into groups by another order; valid: weights quantised with "
            "desc_act false"
        )


def _made(
    name: str,
    scheme: Scheme,
    codes: torch.Tensor,
    scales: torch.Tensor,
    zeros: torch.Tensor | None,
    dtype: torch.dtype,
) -> QuantizedWeight:
    if not scales.isfinite().all():
        raise ConfigError(f"checkpoint: the scales of {name}: got NaN or infinity; valid: finite")
    num_inputs, size = codes.shape[1], None
    if scheme is Scheme.w4a16:
        num_inputs *= 2
        stored_size = num_inputs // scales.shape[1]
        size = next(size for size in GROUP_SIZES if stored_size % size == 0)
        scales = scales.repeat_interleave(stored_size // size, dim=1)
        zeros = None if zeros is None else zeros.repeat_interleave(stored_size // size, dim=1)
    elif scheme is Scheme.fp8 and (codes.view(torch.uint8) & NAN == NAN).any():
        raise ConfigError(f"checkpoint: {name}.weight: got NaN; valid: finite")
    return QuantizedWeight(
        scheme=scheme,
        codes=codes.contiguous(),
        scales=scales,
        zeros=zeros,
        num_outputs=codes.shape[0],
        num_inputs=num_inputs,
        dtype=dtype,
        group_size=size,
    )
