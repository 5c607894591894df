"""Products with a weight on a GPU: own kernels that stream the weight past a few rows, and cuBLAS for many.

The own kernels run for up to STREAM_ROWS rows, and for every number of rows where the result of a row must not depend
on the others (`batch_invariant`) or where the weight has 4-bit codes. Their tiles and splits come from the weight's
shape and the chip alone. Where the matrix instruction depends on the tile (sm_90, sm_100) a batch-invariant product
uses one instruction for any number of rows: 64 of them wide, padded with zeros.

T = rows, I = inputs, O = outputs, G = groups of inputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import torch
import torch.nn.functional as F
from trimode.kernels.cuda import runtime
from trimode.kernels.linear.cuda import _product, _quantize_rows, _reduce
from trimode.kernels.linear.quantized import MAX_E4M3, SYMMETRIC_ZERO, QuantizedWeight, Scheme, unpack

STREAM_ROWS = 64
"""Most rows for which the own kernels run where cuBLAS could. Chosen by counted bytes, not measured yet."""
TALL_ROWS = 16
"""Up to here the narrow tile runs, which needs a quarter of the matrix instructions of the next one."""
MULTIPLE = 16
"""Inputs must be a multiple of this, so that rows of a weight are copied 16 bytes at a time."""
MAX_QUANTIZED_INPUTS = 32768
"""Most inputs of a row that one program quantises in its registers."""
MIN_SPLIT = 512
"""Fewest inputs of a split."""
SPLIT_MULTIPLE = 256
"""Inputs of a split are a multiple of this, of every tile's inputs and of every group."""
PACK = 128
"""Outputs whose 4-bit codes lie together, a multiple of every tile's."""
LARGE_TILE_REGISTERS = 224
"""Registers of a thread for many rows on sm_100, where shared memory allows one program per multiprocessor. Left alone
the assembler spills some to run two."""
REDUCE_BLOCK = 256
"""Outputs of a row that one program adds."""
PROMOTE = 128
"""Products of e4m3 codes that sm_90 may sum at its reduced accuracy before they are added in float32."""


class Kind(StrEnum):
    """What the codes of a weight are."""

    float32 = "float32"
    half = "half"
    """bfloat16 or float16."""
    e4m3 = "e4m3"
    int4 = "int4"


MIN_PROGRAMS = {Kind.float32: 72, Kind.half: 72, Kind.e4m3: 72, Kind.int4: 192}
"""Programs that a product of a few rows should have. Each has up to 48 KB of loads under way, with 4-bit codes 20 KB;
an H200 needs 3.4 MB (4.8 TB/s times 700 ns)."""


@dataclass(frozen=True, slots=True)
class Tile:
    """The part of a product that one program computes, and how."""

    outputs: int
    rows: int
    inputs: int
    """Of one step of the sum; with 4-bit codes the group's."""
    warps: int
    stages: int
    """Steps whose loads are under way at once, plus one."""


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
    programs = -(-num_outputs // tile(kind, 1, runtime.capability(codes.device), batch_invariant).outputs)
    splits = min(-(-MIN_PROGRAMS[kind] // max(1, programs)), max(1, num_inputs // MIN_SPLIT))
    split = -(-num_inputs // splits // SPLIT_MULTIPLE) * SPLIT_MULTIPLE
    return Weight(
        kind=kind, codes=codes, factors=factors, num_outputs=num_outputs, num_inputs=num_inputs,
        split=min(split, num_inputs), group_size=group_size, batch_invariant=batch_invariant,
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


def tile(kind: Kind, num_rows: int, capability: int, batch_invariant: bool, group_size: int = 0) -> Tile:
    """Returns the tile for a number of rows. The outputs of a tile for up to STREAM_ROWS rows do not depend on them."""
    hopper = 90 <= capability < 100
    newest = 90 <= capability < 120  # wgmma and tcgen05, whose instruction has the width of the tile
    if kind is Kind.float32:
        return Tile(64, 16, 32, 4, 4) if num_rows <= TALL_ROWS else Tile(64, 64, 16, 4, 4)
    narrow = num_rows <= TALL_ROWS and not (newest and batch_invariant)
    # tcgen05 multiplies 64 or 128 outputs at a time: here always 128, so few and many rows take the same instruction.
    outputs = 128 if newest and not hopper else 64
    if kind is Kind.int4:
        if num_rows > STREAM_ROWS:
            return Tile(128, 64, group_size, 8, 3)
        stages = (6 if narrow else 5) if hopper else 4
        return Tile(outputs, 16 if narrow else 64, group_size, outputs // 16, stages)
    per_byte = 1 if kind is Kind.e4m3 else 2
    # e4m3 codes that the matrix units do not take are widened in registers, of which there are enough for short steps.
    widened = kind is Kind.e4m3 and not (89 <= capability <= 120)
    if num_rows > STREAM_ROWS:
        step = 64 if widened else 128 // per_byte
        return Tile(256 if newest else 128, 64, step, 8, 4 if newest and kind is Kind.half else 3)
    if narrow:
        return Tile(outputs, 16, 16384 // outputs // per_byte, 4, 4 if newest else 3)
    if hopper:
        return Tile(64, 64, 128, 4, 3 if kind is Kind.half else 6)
    return Tile(outputs, 64, 64 if widened else 128 // per_byte, outputs // 16, 4)


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
    if weight.kind is Kind.int4 or weight.batch_invariant or (streamed and weight.kind is Kind.half):
        return _stream(x_TI, None, weight, residual_TO, x_TI.dtype)
    if residual_TO is None:
        return F.linear(x_TI, weight.codes)
    return torch.addmm(residual_TO, x_TI, weight.codes.t())


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
        INPUTS=num_inputs, LARGEST=MAX_E4M3, BLOCK=block, num_warps=min(16, max(1, block // 512)),
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
    partial = splits > 1 and num_rows <= STREAM_ROWS
    added = residual_TO if residual_TO is None or residual_TO.stride(1) == 1 else residual_TO.contiguous()
    target = torch.empty((splits, num_rows, outputs), dtype=torch.float32, device=device) if partial else y_TO
    # What a kernel does not read is given as x.
    scales = (x_TI, x_TI) if row_scales_T is None else (row_scales_T, weight.factors)
    residual, stride = (x_TI, 0) if added is None else (added, added.stride(0))
    finish = {"SCALED": row_scales_T is not None, "ADDED": added is not None}
    codes = weight.codes.view(torch.uint8) if weight.kind is Kind.e4m3 and chip < 89 else weight.codes
    grid = (-(-num_rows // part.rows), -(-outputs // part.outputs), splits if partial else 1)
    runtime.launch(
        _product, grid, x_TI, codes, weight.factors if weight.kind is Kind.int4 else x_TI, *scales, residual, target,
        num_rows, x_TI.stride(0), stride, inputs, outputs, weight.split, PARTIAL=partial, SINGLE=splits == 1,
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
