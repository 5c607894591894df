"""A weight matrix in 8-bit floats or in 8-bit or 4-bit integers: its data, how it is made and turned into numbers.

fp8: e4m3 codes and one scale per output; weight = code * scale. Rows are quantised too, each with its own scale, so
that the product runs on the fp8 units of a GPU (`quantize_rows`).
w8a16: one byte and one scale per output; weight = code * scale, codes -127 to 127 (-128 in files of others). Rows stay
in bfloat16, float16 or float32.
w4a16: two 4-bit codes per byte, a scale and a zero per group of inputs; weight = (code - zero) * scale. Rows stay in
bfloat16, float16 or float32.

O = outputs, I = inputs, G = groups of inputs, C = bytes or codes of a row, T = rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import torch

GROUP_SIZES = (128, 64, 32)
"""Inputs that share a scale in w4a16. `quantize` takes the first one that divides the number of inputs."""
ROW_DTYPES = (torch.bfloat16, torch.float16, torch.float32)
MAX_E4M3 = 448.0
"""Largest number of float8_e4m3fn."""
MAX_INT8 = 127
"""Largest 8-bit code; the least is its negative."""
MAX_CODE = 15
"""Largest 4-bit code."""
SYMMETRIC_ZERO = 8
"""The zero of every group where none is stored."""
SHRINKS = (1.0, 0.96, 0.92, 0.88, 0.84, 0.8, 0.75, 0.7)
"""Parts of a group's range that are tried. Codes at the ends are clipped, the others get a finer step."""
_ELEMENTS = 1 << 22
"""Weights that are quantised at a time, which bounds the memory of the float32 copies."""


class Scheme(StrEnum):
    """How the numbers of a weight are stored."""

    fp8 = "fp8"
    """e4m3, one scale per output; rows are quantised to e4m3 as well."""
    w8a16 = "w8a16"
    """8-bit integers, one scale per output; rows stay as they are."""
    w4a16 = "w4a16"
    """4-bit integers, a scale and a zero per group of inputs; rows stay as they are."""


CODES_DTYPES = {Scheme.fp8: torch.float8_e4m3fn, Scheme.w8a16: torch.int8, Scheme.w4a16: torch.uint8}
"""Dtypes of the codes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizedWeight:
    """A matrix `[O, I]` in a scheme's own storage. ValueError if the parts do not fit each other."""

    scheme: Scheme
    codes: torch.Tensor
    """fp8: float8_e4m3fn `[O, I]`; w8a16: int8 `[O, I]`; w4a16: uint8 `[O, I / 2]`, input 2i in the low and
    2i + 1 in the high four bits."""
    scales: torch.Tensor
    """float32; fp8 and w8a16: `[O]`, w4a16: `[O, G]`. Those that `quantize` makes for w4a16 are exact in bfloat16."""
    zeros: torch.Tensor | None
    """w4a16: uint8 `[O, G]`, each 0 to 15, or None where all are 8; fp8 and w8a16: None."""
    num_outputs: int
    num_inputs: int
    dtype: torch.dtype
    """Of the rows and the results: bfloat16, float16 or float32."""
    group_size: int | None = None
    """w4a16: inputs per group, 128, 64 or 32, a divisor of `num_inputs`; fp8 and w8a16: None."""

    def __post_init__(self) -> None:
        if self.dtype not in ROW_DTYPES:
            raise ValueError(f"QuantizedWeight.dtype: got {self.dtype}, expected one of {list(ROW_DTYPES)}")
        groups: tuple[int, ...] = ()
        columns = self.num_inputs
        valid: list[int | None] = [None]
        if self.scheme is Scheme.w4a16:
            valid = [size for size in GROUP_SIZES if self.num_inputs % size == 0]
        if self.group_size not in valid:
            raise ValueError(
                f"QuantizedWeight.group_size: got {self.group_size}, expected one of {valid} in {self.scheme.value} "
                f"with {self.num_inputs} inputs"
            )
        if self.group_size is not None:
            groups, columns = (self.num_inputs // self.group_size,), self.num_inputs // 2
        device = self.codes.device
        _check("codes", self.codes, CODES_DTYPES[self.scheme], (self.num_outputs, columns), device)
        _check("scales", self.scales, torch.float32, (self.num_outputs, *groups), device)
        if self.zeros is None:
            return
        if self.group_size is None:
            raise ValueError(f"QuantizedWeight.zeros: got a tensor, expected None in {self.scheme.value}")
        _check("zeros", self.zeros, torch.uint8, (self.num_outputs, *groups), device)

    @property
    def nbytes(self) -> int:
        """Bytes of codes, scales and zeros."""
        return self.codes.nbytes + self.scales.nbytes + (0 if self.zeros is None else self.zeros.nbytes)

    def to(self, device: torch.device) -> QuantizedWeight:
        """Returns the same weight on a device."""
        zeros = None if self.zeros is None else self.zeros.to(device)
        return replace(self, codes=self.codes.to(device), scales=self.scales.to(device), zeros=zeros)


def _check(name: str, tensor: torch.Tensor, dtype: torch.dtype, shape: tuple[int, ...], device: torch.device) -> None:
    if tensor.dtype != dtype or tensor.shape != shape or tensor.device != device or not tensor.is_contiguous():
        order = "" if tensor.is_contiguous() else "not contiguous "
        raise ValueError(
            f"QuantizedWeight.{name}: got {order}{tensor.dtype} {list(tensor.shape)} on {tensor.device}, "
            f"expected contiguous {dtype} {list(shape)} on {device}"
        )


def group_size_for(num_inputs: int) -> int:
    """Returns the inputs per group that `quantize` uses: 128, or the next smaller size that divides the inputs.

    Raises:
        ValueError: not even 32 divides them. A short last group is not made, because no public layout holds one.
    """
    for size in GROUP_SIZES:
        if num_inputs > 0 and num_inputs % size == 0:
            return size
    raise ValueError(f"w4a16: got {num_inputs} inputs, expected a multiple of {GROUP_SIZES[-1]}")


def quantize(weight_OI: torch.Tensor, scheme: Scheme, dtype: torch.dtype) -> QuantizedWeight:
    """Returns the weight in a scheme, each output on its own: joining and quantising commute.

    fp8: the largest weight of an output becomes 448; w8a16: 127. w4a16: of the ranges in SHRINKS, from
    a group's least to its largest weight and zero, the one with the least squared error, so it is never worse than the
    whole range.

    Args:
        weight_OI: finite floats of any float dtype.
        scheme: how to store it.
        dtype: of the rows that it will be multiplied with. Codes and scales do not depend on it.

    Raises:
        ValueError: no float matrix, numbers that are not finite, or for w4a16 inputs that no group size divides.
    """
    if weight_OI.dim() != 2 or not weight_OI.is_floating_point():
        raise ValueError(f"quantize: got {weight_OI.dtype} {list(weight_OI.shape)}, expected float [O, I]")
    num_outputs, num_inputs = weight_OI.shape
    group = group_size_for(num_inputs) if scheme is Scheme.w4a16 else None
    parts = []
    for rows in weight_OI.split(max(1, _ELEMENTS // max(1, num_inputs))):
        plain = rows.float()
        if not plain.isfinite().all():
            raise ValueError("quantize: got NaN or infinity, expected finite weights")
        if group is not None:
            parts.append(_to_int4(plain.view(-1, num_inputs // group, group)))
        else:
            parts.append(_to_e4m3(plain) if scheme is Scheme.fp8 else _to_int8(plain))
    codes, scales, zeros = (torch.cat(part) for part in zip(*parts, strict=True))
    return QuantizedWeight(
        scheme=scheme,
        codes=codes,
        scales=scales,
        zeros=None if group is None else zeros,
        num_outputs=num_outputs,
        num_inputs=num_inputs,
        dtype=dtype,
        group_size=group,
    )


def dequantize(weight: QuantizedWeight) -> torch.Tensor:
    """Returns the plain weight in float32, `[O, I]`."""
    if weight.scheme is not Scheme.w4a16:
        return weight.codes.float() * weight.scales[:, None]
    codes_OGC = unpack(weight.codes).unflatten(1, (weight.scales.shape[1], -1))
    zeros_OG1 = SYMMETRIC_ZERO if weight.zeros is None else weight.zeros[..., None].float()
    plain: torch.Tensor = (codes_OGC.float() - zeros_OG1) * weight.scales[..., None]
    return plain.view(weight.num_outputs, weight.num_inputs)


def quantize_rows(x_TI: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns rows in e4m3 and their scales, float32 `[T]`: the largest number of a row becomes 448.

    A row with NaN or infinity becomes NaN, and no other row does.
    """
    codes_TI, scales_T, _ = _to_e4m3(x_TI.float())
    return codes_TI, scales_T


def join(parts: Sequence[QuantizedWeight]) -> QuantizedWeight:
    """Returns weights that share their inputs as one, their outputs one after the other.

    Raises:
        ValueError: they differ in more than their outputs, or there are none.
    """
    kinds = [(part.scheme, part.num_inputs, part.dtype, part.group_size) for part in parts]
    if len(set(kinds)) != 1:
        raise ValueError(f"join: got {kinds}, expected parts of one scheme, width, dtype and group size")
    zeros = None
    if any(part.zeros is not None for part in parts):
        every = [part.zeros if part.zeros is not None else _symmetric(part) for part in parts]
        zeros = torch.cat(every)
    return replace(
        parts[0],
        codes=torch.cat([part.codes for part in parts]),
        scales=torch.cat([part.scales for part in parts]),
        zeros=zeros,
        num_outputs=sum(part.num_outputs for part in parts),
    )


def pack(codes: torch.Tensor) -> torch.Tensor:
    """Returns 4-bit codes `[..., C]` two per byte, `[..., C / 2]`: the even one in the low four bits."""
    pairs = codes.to(torch.uint8).unflatten(-1, (-1, 2))
    packed: torch.Tensor = pairs[..., 0] | (pairs[..., 1] << 4)
    return packed


def unpack(packed: torch.Tensor) -> torch.Tensor:
    """Returns the 4-bit codes of `pack` as uint8, `[..., 2 C]`."""
    return torch.stack([packed & MAX_CODE, packed >> 4], dim=-1).flatten(-2)


def _symmetric(weight: QuantizedWeight) -> torch.Tensor:
    return torch.full_like(weight.scales, SYMMETRIC_ZERO, dtype=torch.uint8)


def _to_e4m3(plain: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns codes, scales, and nothing for the zeros."""
    scales = _scales(plain, MAX_E4M3)
    return (plain / scales[:, None]).to(torch.float8_e4m3fn), scales, scales[:0]


def _to_int8(plain: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns codes, scales, and nothing for the zeros."""
    scales = _scales(plain, MAX_INT8)
    codes = (plain / scales[:, None]).round().clamp_(-MAX_INT8, MAX_INT8)
    return codes.to(torch.int8), scales, scales[:0]


def _scales(plain: torch.Tensor, largest: float) -> torch.Tensor:
    """Returns the scales with which the largest number of a row becomes `largest`; 1 for a row of zeros."""
    peak = plain.abs().amax(dim=1) if plain.shape[1] else plain.new_zeros(len(plain))
    scales = peak / largest
    return torch.where(scales > 0, scales, torch.where(scales == 0, 1.0, scales))  # NaN stays NaN


def _to_int4(plain_OGC: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns packed codes, scales and zeros, the best of SHRINKS for each group."""
    low = plain_OGC.amin(dim=2).clamp(max=0.0)
    high = plain_OGC.amax(dim=2).clamp(min=0.0)
    best = None
    for shrink in SHRINKS:
        scales, zeros, codes = _grid(plain_OGC, low * shrink, high * shrink)
        error = ((codes - zeros[..., None]) * scales[..., None] - plain_OGC).square_().sum(dim=2)
        if best is None:
            best = scales, zeros, codes, error
            continue
        better = error < best[3]
        best = (
            torch.where(better, scales, best[0]),
            torch.where(better, zeros, best[1]),
            torch.where(better[..., None], codes, best[2]),
            torch.where(better, error, best[3]),
        )
    assert best is not None
    return pack(best[2].flatten(1)), best[0], best[1].to(torch.uint8)


def _grid(
    plain_OGC: torch.Tensor, low: torch.Tensor, high: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns scales (rounded to bfloat16), zeros and codes that cover low to high, all as float32."""
    scales = ((high - low) / MAX_CODE).bfloat16().float()
    scales = torch.where(scales > 0, scales, 1.0)
    zeros = (-low / scales).round().clamp(0, MAX_CODE)
    codes = ((plain_OGC / scales[..., None]).round() + zeros[..., None]).clamp_(0, MAX_CODE)
    return scales, zeros, codes
