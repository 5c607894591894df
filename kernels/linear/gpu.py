"""Products with a weight on a GPU: own kernels that stream the weight past a few rows, and cuBLAS for many.

The own kernels run for up to STREAM_ROWS rows, and for every number of rows where the result of a row must not depend
on the others (`batch_invariant`). With 4-bit codes they run for up to UNPACK_ROWS rows. Where the matrix instruction
depends on the tile (sm_90, sm_100) a batch-invariant product uses one instruction for any number of rows: 64 of them
wide, padded with zeros.

T = rows, I = inputs, O = outputs, G = groups of inputs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from trimode.kernels.cuda import runtime
from trimode.kernels.linear.cuda import _product, _quantize_rows, _reduce, _unpack_int4
from trimode.kernels.linear.quantized import MAX_E4M3, SYMMETRIC_ZERO, QuantizedWeight, Scheme, unpack
from trimode.kernels.linear.tiles import STREAM_ROWS, Kind, split_inputs, tile

MULTIPLE = 16
"""Inputs must be a multiple of this, so that rows of a weight are copied 16 bytes at a time."""
MAX_QUANTIZED_INPUTS = 32768
"""Most inputs of a row that one program quantises in its registers."""
PACK = 128
"""Outputs whose 4-bit codes lie together, a multiple of every tile's."""
UNPACK_ROWS = 256
"""Most rows for which codes of 4 bits are unpacked in the product. For more of them a copy of the weight in the rows'
dtype is written and cuBLAS multiplies: on an H100 the copies cost 6.6 ms per forward of the 8B model, however many
rows, and the product of 256 rows costs 4 ms more with unpacking than without."""
WAVE_PROGRAMS = 100
"""Most programs of many rows for which each split still has its own, with 4-bit codes."""
LARGE_TILE_REGISTERS = 224
"""Registers of a thread for many rows on sm_100, where shared memory allows one program per multiprocessor. Left alone
the assembler spills some to run two."""
REDUCE_BLOCK = 256
"""Outputs of a row that one program adds."""
PROMOTE = 128
"""Products of e4m3 codes that sm_90 may sum at its reduced accuracy before they are added in float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """A weight as the GPU kernels read it."""

    kind: Kind
    codes: torch.Tensor
    """`[O, I]`; 4 bits: int32 `[O / PACK, G, PACK, inputs of a group / 8]`, outputs padded, eight codes per word: the
    word's input 2i in bits 4i and above, its input 2i + 1 in bits 16 + 4i."""
    factors: torch.Tensor | None
    """e4m3: scales, float32 `[O]`; 4 bits: int32 `[G, O]`, outputs padded, the scale's float32 bits with the zero in
    the lowest four, which changes a scale of more than 20 bits of mantissa by 2^-20 at most."""
    num_outputs: int
    num_inputs: int
    split: int
    """Inputs that are summed on their own."""
    group_size: int = 0
    """4 bits: inputs that share a scale."""
    batch_invariant: bool = False

    @property
    def nbytes(self) -> int:
        """Bytes as stored."""
        return self.codes.nbytes + (0 if self.factors is None else self.factors.nbytes)


def supports(weight_OI: torch.Tensor) -> str | None:
    """Returns None if `pack` takes this weight on its device, otherwise the reason."""
    if refused := runtime.refusal(weight_OI):
        return refused
    if weight_OI.dtype not in runtime.DTYPES:
        return f"no GPU kernel for {weight_OI.dtype}"
    if not weight_OI.is_contiguous():
        return "the weight is not contiguous"
    return _refused_inputs(weight_OI.shape[1])


def supports_quantized(weight: QuantizedWeight) -> str | None:
    """Returns None if `pack_quantized` takes this weight on its device, otherwise the reason."""
    if refused := runtime.refusal(weight.codes, weight.scales):
        return refused
    if weight.scheme is Scheme.w8a16:
        return "no GPU kernel for 8-bit integers"
    if weight.scheme is Scheme.w4a16:
        return "no GPU kernel for 4-bit weights and torch.float32" if weight.dtype == torch.float32 else None
    if weight.num_inputs > MAX_QUANTIZED_INPUTS:
        return f"{weight.num_inputs} inputs are above {MAX_QUANTIZED_INPUTS}"
    return _refused_inputs(weight.num_inputs)


def _refused_inputs(num_inputs: int) -> str | None:
    whole = num_inputs > 0 and num_inputs % MULTIPLE == 0
    return None if whole else f"{num_inputs} inputs are no multiple of {MULTIPLE}"


def describe(dtype: torch.dtype, *, batch_invariant: bool) -> str:
    """Returns for how many rows which of the two implementations multiplies with a plain weight of a dtype."""
    if batch_invariant:
        return "own kernels for any number of rows"
    return "cuBLAS" if dtype == torch.float32 else f"own kernels for up to {STREAM_ROWS} rows, cuBLAS for more"


def pack(weight_OI: torch.Tensor, *, batch_invariant: bool) -> Weight:
    """Returns the weight for `product`; it is not copied."""
    kind = Kind.float32 if weight_OI.dtype == torch.float32 else Kind.half
    return _weight(kind, weight_OI, None, tuple(weight_OI.shape), batch_invariant)


def pack_quantized(weight: QuantizedWeight, *, batch_invariant: bool) -> Weight:
    """Returns the weight for `product`. Codes of 4 bits are copied into the kernel's order, others are shared."""
    shape = weight.num_outputs, weight.num_inputs
    if weight.scheme is Scheme.fp8:
        return _weight(Kind.e4m3, weight.codes, weight.scales, shape, batch_invariant)
    assert weight.group_size is not None
    codes, factors = _pack_int4(weight, weight.group_size)
    return _weight(Kind.int4, codes, factors, shape, batch_invariant, weight.group_size)


def _weight(
    kind: Kind, codes: torch.Tensor, factors: torch.Tensor | None, shape: tuple[int, ...], batch_invariant: bool,
    group_size: int = 0,
) -> Weight:  # fmt: skip
    num_outputs, num_inputs = shape
    split = split_inputs(kind, num_outputs, num_inputs, runtime.capability(codes.device), batch_invariant)
    return Weight(
        kind=kind, codes=codes, factors=factors, num_outputs=num_outputs, num_inputs=num_inputs,
        split=split, group_size=group_size, batch_invariant=batch_invariant,
    )  # fmt: skip


def _pack_int4(weight: QuantizedWeight, group_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns codes and factors in the order that `Weight` describes. Padded outputs have scale 0."""
    missing = -weight.num_outputs % PACK
    codes_OI = F.pad(weight.codes, (0, 0, 0, missing))
    scales_OG = F.pad(weight.scales, (0, 0, 0, missing))
    zeros_OG = torch.full_like(scales_OG, SYMMETRIC_ZERO, dtype=torch.int32)
    if weight.zeros is not None:
        zeros_OG[: weight.num_outputs] = weight.zeros.int()
    words = []
    for block in codes_OI.split(max(PACK, (1 << 22) // weight.num_inputs // PACK * PACK)):
        nibbles_OJ42 = unpack(block).unflatten(1, (-1, 4, 2)).int()
        shifts_42 = 4 * torch.arange(4, device=block.device)[:, None] + 16 * torch.arange(2, device=block.device)
        word_OJ = (nibbles_OJ42 << shifts_42.int()).sum(dim=(2, 3)).to(torch.int32)
        words.append(word_OJ.view(-1, PACK, weight.num_inputs // group_size, group_size // 8).transpose(1, 2))
    bits_OG = (scales_OG.contiguous().view(torch.int32) + 8) & -16
    return torch.cat(words).contiguous(), (bits_OG | zeros_OG).T.contiguous()


def product(x_TI: torch.Tensor, weight: Weight, residual_TO: torch.Tensor | None = None) -> torch.Tensor:
    """`x @ weight.T (+ residual)`, `[T, O]` in the dtype of x, rounded once, but twice by `torch._scaled_mm`."""
    streamed = weight.batch_invariant or len(x_TI) <= STREAM_ROWS
    if weight.kind is Kind.e4m3:
        scaled_mm = not streamed and _has_scaled_mm(x_TI, weight)
        codes_TI, scales_T = quantize_rows(x_TI)
        if not scaled_mm:
            return _stream(codes_TI, scales_T, weight, residual_TO, x_TI.dtype)
        assert weight.factors is not None
        y_TO = torch._scaled_mm(
            codes_TI, weight.codes.t(), scales_T[:, None], weight.factors[None, :], out_dtype=x_TI.dtype
        )
        return y_TO if residual_TO is None else y_TO.add_(residual_TO)
    if weight.batch_invariant or (streamed and weight.kind is Kind.half):
        return _stream(x_TI, None, weight, residual_TO, x_TI.dtype)
    if weight.kind is Kind.int4 and len(x_TI) <= UNPACK_ROWS:
        return _stream(x_TI, None, weight, residual_TO, x_TI.dtype)
    plain_OI = unpack_int4(weight, x_TI.dtype) if weight.kind is Kind.int4 else weight.codes
    if residual_TO is None:
        return F.linear(x_TI, plain_OI)
    return torch.addmm(residual_TO, x_TI, plain_OI.t())


def unpack_int4(weight: Weight, dtype: torch.dtype) -> torch.Tensor:
    """Returns a weight of 4-bit codes as `[O, I]`, each number rounded once to `dtype`."""
    plain_OI = torch.empty((weight.num_outputs, weight.num_inputs), dtype=dtype, device=weight.codes.device)
    blocks, groups = weight.codes.shape[:2]
    runtime.launch(
        _unpack_int4, (groups, blocks), weight.codes, weight.factors, plain_OI, weight.num_outputs,
        weight.num_inputs, GROUP=weight.group_size, PACK=PACK, PACKED=not runtime.is_interpreter(), num_warps=8,
    )  # fmt: skip
    return plain_OI


def _has_scaled_mm(x_TI: torch.Tensor, weight: Weight) -> bool:
    """True if `torch._scaled_mm` takes scales per row and per output here."""
    capability = runtime.capability(x_TI.device)
    return 89 <= capability < 120 and x_TI.dtype == torch.bfloat16 and weight.num_outputs % 16 == 0


def quantize_rows(x_TI: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns rows in e4m3 and their float32 scales `[T]`; below sm_89 float16 holds the same numbers."""
    num_rows, num_inputs = x_TI.shape
    x_TI = x_TI if x_TI.stride(1) == 1 else x_TI.contiguous()
    dtype = torch.float8_e4m3fn if runtime.capability(x_TI.device) >= 89 else torch.float16
    codes_TI = torch.empty((num_rows, num_inputs), dtype=dtype, device=x_TI.device)
    scales_T = torch.empty(num_rows, dtype=torch.float32, device=x_TI.device)
    block = 1 << (num_inputs - 1).bit_length()
    runtime.launch(
        _quantize_rows, (num_rows,), x_TI, codes_TI, scales_T, x_TI.stride(0),
        INPUTS=num_inputs, LARGEST=MAX_E4M3, BLOCK=block, num_warps=min(32, max(1, block // 512)),
    )  # fmt: skip
    return codes_TI, scales_T


def _stream(
    x_TI: torch.Tensor, row_scales_T: torch.Tensor | None, weight: Weight, residual_TO: torch.Tensor | None,
    dtype: torch.dtype,
) -> torch.Tensor:  # fmt: skip
    """The product by the own kernels."""
    num_rows, outputs, inputs = len(x_TI), weight.num_outputs, weight.num_inputs
    device = x_TI.device
    x_TI = x_TI if x_TI.stride(1) == 1 else x_TI.contiguous()
    y_TO = torch.empty((num_rows, outputs), dtype=dtype, device=device)
    chip = runtime.capability(device)
    part = tile(weight.kind, num_rows, chip, weight.batch_invariant, weight.group_size)
    splits = -(-inputs // weight.split)
    tiles = -(-num_rows // part.rows), -(-outputs // part.outputs)
    few = num_rows <= STREAM_ROWS or (weight.kind is Kind.int4 and math.prod(tiles) <= WAVE_PROGRAMS)
    partial = splits > 1 and few
    if weight.kind is Kind.int4 and splits > 1 and not partial:
        part = replace(part, warps=8)  # the sums of two splits do not fit into the registers of four
    added = residual_TO if residual_TO is None or residual_TO.stride(1) == 1 else residual_TO.contiguous()
    target = torch.empty((splits, num_rows, outputs), dtype=torch.float32, device=device) if partial else y_TO
    # What a kernel does not read is given as x.
    scales = (x_TI, x_TI) if row_scales_T is None else (row_scales_T, weight.factors)
    residual, stride = (x_TI, 0) if added is None else (added, added.stride(0))
    finish = {"SCALED": row_scales_T is not None, "ADDED": added is not None}
    codes = weight.codes.view(torch.uint8) if weight.kind is Kind.e4m3 and chip < 89 else weight.codes
    runtime.launch(
        _product, (*tiles, splits if partial else 1), x_TI, codes,
        weight.factors if weight.kind is Kind.int4 else x_TI, *scales, residual, target, num_rows,
        x_TI.stride(0), stride, inputs, outputs, weight.split, PARTIAL=partial, SINGLE=splits == 1,
        **({"SCALED": False, "ADDED": False} if partial else finish), WHOLE_O=outputs % part.outputs == 0,
        WHOLE_I=inputs % part.inputs == 0, GROUP=weight.group_size, PACK=PACK, PACKED=not runtime.is_interpreter(),
        BLOCK_O=part.outputs, BLOCK_T=part.rows, BLOCK_I=part.inputs,
        PROMOTE=PROMOTE if weight.kind is Kind.e4m3 and chip == 90 else None,
        num_warps=part.warps, num_stages=part.stages,
        maxnreg=LARGE_TILE_REGISTERS if num_rows > STREAM_ROWS and 100 <= chip < 120 else None,
    )  # fmt: skip
    if partial:
        runtime.launch(
            _reduce, (num_rows, -(-outputs // REDUCE_BLOCK)), target, *scales, residual, y_TO, num_rows, stride,
            outputs, SPLITS=splits, **finish, BLOCK=REDUCE_BLOCK, num_warps=4,
        )  # fmt: skip
    return y_TO
