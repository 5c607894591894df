"""The Triton kernels of products with a weight: a tile of outputs times a tile of rows, summed over inputs in splits.

The weight is the left operand, so that 64 or more outputs are the M of a matrix instruction and a few rows its N: only
so do the chips from sm_90 on use their newest matrix units for a single row.

The sum over the inputs has one order, whatever the number of rows: every split on its own in float32, from its first
input to its last, then the splits one after the other. Either a program sums one split and `_reduce` adds them, or a
program sums all of them; both add the same numbers in the same order.

T = rows, I = inputs, O = outputs.
"""

from __future__ import annotations

from trimode.kernels.cuda.runtime import jit, tl


@jit
def _to_half(code):
    """e4m3 codes in bytes as float16, exactly, for chips without 8-bit floats: the exponents differ by 8."""
    bits = ((code & 0x80).to(tl.uint16) << 8) | ((code & 0x7F).to(tl.uint16) << 7)
    number = bits.to(tl.float16, bitcast=True) * 256.0
    return tl.where((code & 0x7F) == 0x7F, float("nan"), number)


@jit
def _to_integers(word, zero, dtype: tl.constexpr, PACKED: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK_I: tl.constexpr):
    """Code minus zero, exactly, of eight 4-bit codes per word, two at a time without a conversion.

    A code in the lowest bits of the mantissa of 128 (bfloat16) or 1024 (float16) makes that number plus the code.
    PACKED: instructions for two numbers in a word, which the compiler does not find, and the interpreter does not know.
    """
    BITS: tl.constexpr = 0x43004300 if dtype == tl.bfloat16 else 0x64006400
    shift = 4 * tl.arange(0, 4)
    pair = (word[:, :, None] >> shift[None, None, :]).reshape(BLOCK_O, BLOCK_I // 2)
    base = (zero * 0x10001 + BITS)[:, None]  # zero plus that number, twice
    if PACKED:
        pair = tl.inline_asm_elementwise(
            "lop3.b32 $0, $1, $2, $3, 0xEA;", "=r,r,r,r", [pair, 0x000F000F, BITS], tl.int32, is_pure=True, pack=1
        )  # ($1 & $2) | $3
        if dtype == tl.bfloat16:  # sm_80 has no packed difference of these: $1 * 1 + (-$3)
            pair = tl.inline_asm_elementwise(
                "fma.rn.bf16x2 $0, $1, $2, $3;", "=r,r,r,r", [pair, 0x3F803F80, base ^ -0x7FFF8000], tl.int32,
                is_pure=True, pack=1,
            )  # fmt: skip
        else:
            pair = tl.inline_asm_elementwise(
                "sub.rn.f16x2 $0, $1, $2;", "=r,r,r", [pair, base], tl.int32, is_pure=True, pack=1
            )
        even = (pair & 0xFFFF).to(tl.uint16).to(dtype, bitcast=True)
        odd = (pair >> 16).to(tl.uint16).to(dtype, bitcast=True)
    else:
        pair = (pair & 0x000F000F) | BITS
        number = (base & 0xFFFF).to(tl.uint16).to(dtype, bitcast=True)
        even = (pair & 0xFFFF).to(tl.uint16).to(dtype, bitcast=True) - number
        odd = (pair >> 16).to(tl.uint16).to(dtype, bitcast=True) - number
    return tl.join(even, odd).reshape(BLOCK_O, BLOCK_I)


@jit
def _dot(
    x_at, weight_at, inside_t, inside_o, first, last, inputs, WHOLE_O: tl.constexpr, WHOLE_I: tl.constexpr,
    BLOCK_O: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_I: tl.constexpr, PROMOTE: tl.constexpr,
):  # fmt: skip
    """The sum of one split for a float or an e4m3 weight."""
    total = tl.zeros([BLOCK_O, BLOCK_T], tl.float32)
    i = tl.arange(0, BLOCK_I)
    for start in range(first, last, BLOCK_I):
        inside_x, inside_weight = inside_t[None, :], inside_o[:, None]
        if not WHOLE_I:
            inside_x = inside_x & (start + i < inputs)[:, None]
            inside_weight = inside_weight & (start + i < inputs)[None, :]
        x = tl.load(x_at + start, mask=inside_x, other=0.0)
        if WHOLE_O and WHOLE_I:
            weight = tl.load(weight_at + start)
        else:
            weight = tl.load(weight_at + start, mask=inside_weight, other=0.0)
        if weight.dtype == tl.uint8:
            weight = _to_half(weight)
        total = tl.dot(weight, x, total, input_precision="ieee", max_num_imprecise_acc=PROMOTE)
    return total


@jit
def _dot_int4(
    x_at, weight_at, group_at, inside_t, first, last, width, BLOCK_O: tl.constexpr, BLOCK_T: tl.constexpr,
    GROUP: tl.constexpr, PACK: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    """The sum of one split for 4-bit codes: per group a sum of products with integers, times the group's scale."""
    total = tl.zeros([BLOCK_O, BLOCK_T], tl.float32)
    for start in range(first, last, GROUP):
        group = start // GROUP
        word = tl.load(weight_at + group * (PACK * GROUP // 8))
        factor = tl.load(group_at + group * width)
        x = tl.load(x_at + start, mask=inside_t[None, :], other=0.0)
        weight = _to_integers(word, factor & 15, x.dtype, PACKED, BLOCK_O, GROUP)
        scale = (factor & -16).to(tl.float32, bitcast=True)
        total = tl.fma(tl.dot(weight, x), scale[:, None], total)
    return total


@jit
def _one_split(
    x_tile, weight_tile, group_tile, inside_t, inside_o, first, split_inputs, inputs, width, WHOLE_O: tl.constexpr,
    WHOLE_I: tl.constexpr, GROUP: tl.constexpr, PACK: tl.constexpr, PACKED: tl.constexpr, BLOCK_O: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_I: tl.constexpr, PROMOTE: tl.constexpr,
):  # fmt: skip
    """The sum of the split that begins at the input `first`."""
    last = tl.minimum(first + split_inputs, inputs)
    if GROUP:
        total = _dot_int4(
            x_tile, weight_tile, group_tile, inside_t, first, last, width, BLOCK_O, BLOCK_T, GROUP, PACK, PACKED
        )
    else:
        total = _dot(
            x_tile, weight_tile, inside_t, inside_o, first, last, inputs, WHOLE_O, WHOLE_I, BLOCK_O, BLOCK_T, BLOCK_I,
            PROMOTE,
        )  # fmt: skip
    return total


@jit
def _finish(total, row_scale, output_scale, residual_at, inside, SCALED: tl.constexpr, ADDED: tl.constexpr):
    """Scales and the residual. Nothing is left to the compiler to fuse, so it is the same wherever it stands."""
    if SCALED:
        total = total * row_scale
        if ADDED:
            total = tl.fma(total, output_scale, tl.load(residual_at, mask=inside, other=0.0).to(tl.float32))
        else:
            total = total * output_scale
    elif ADDED:
        total = total + tl.load(residual_at, mask=inside, other=0.0).to(tl.float32)
    return total


@jit(do_not_specialize=["num_rows"])
def _product(
    x_at, weight_at, group_at, row_scale_at, output_scale_at, residual_at, y_at, num_rows, x_stride, residual_stride,
    inputs, outputs, split_inputs, PARTIAL: tl.constexpr, SINGLE: tl.constexpr, SCALED: tl.constexpr,
    ADDED: tl.constexpr, WHOLE_O: tl.constexpr, WHOLE_I: tl.constexpr, GROUP: tl.constexpr, PACK: tl.constexpr,
    PACKED: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_I: tl.constexpr, PROMOTE: tl.constexpr,
):  # fmt: skip
    """Grid: tiles of rows (neighbours share their weights), tiles of outputs, splits (PARTIAL) or 1.

    PARTIAL: a program sums one split, for `_reduce`. SINGLE: there is one split. WHOLE: the tiles fit the weight.
    """
    t = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    o = tl.program_id(1) * BLOCK_O + tl.arange(0, BLOCK_O)
    i = tl.arange(0, BLOCK_I)
    inside_t, inside_o = t < num_rows, o < outputs
    inside = inside_t[None, :] if WHOLE_O else inside_t[None, :] & inside_o[:, None]
    t, o = t.to(tl.int64), o.to(tl.int64)
    x_tile = x_at + t[None, :] * x_stride + i[:, None]
    width = tl.cdiv(outputs, PACK) * PACK if GROUP else outputs
    if GROUP:
        j = tl.arange(0, GROUP // 8)
        place = o // PACK * (PACK * (inputs // 8)) + o % PACK * (GROUP // 8)
        weight_tile = weight_at + place[:, None] + j[None, :]
    else:
        weight_tile = weight_at + o[:, None] * inputs + i[None, :]
    split = tl.program_id(2)
    total = tl.zeros([BLOCK_O, BLOCK_T], tl.float32)
    if PARTIAL or SINGLE:
        first = split * split_inputs
        total = total + _one_split(
            x_tile, weight_tile, group_at + o, inside_t, inside_o, first, split_inputs, inputs, width, WHOLE_O,
            WHOLE_I, GROUP, PACK, PACKED, BLOCK_O, BLOCK_T, BLOCK_I, PROMOTE,
        )  # fmt: skip
    else:
        for first in range(0, inputs, split_inputs):
            total = total + _one_split(
                x_tile, weight_tile, group_at + o, inside_t, inside_o, first, split_inputs, inputs, width, WHOLE_O,
                WHOLE_I, GROUP, PACK, PACKED, BLOCK_O, BLOCK_T, BLOCK_I, PROMOTE,
            )  # fmt: skip
    if PARTIAL:
        place = (split.to(tl.int64) * num_rows + t)[None, :] * outputs + o[:, None]
        tl.store(y_at + place, total, mask=inside)
    else:
        row_scale = tl.load(row_scale_at + t, mask=inside_t, other=0.0)[None, :] if SCALED else 1.0
        output_scale = tl.load(output_scale_at + o, mask=inside_o, other=0.0)[:, None] if SCALED else 1.0
        residual_tile = residual_at + t[None, :] * residual_stride + o[:, None]
        y = _finish(total, row_scale, output_scale, residual_tile, inside, SCALED, ADDED)
        tl.store(y_at + t[None, :] * outputs + o[:, None], y.to(y_at.dtype.element_ty), mask=inside)


@jit(do_not_specialize=["num_rows"])
def _reduce(
    partial_at, row_scale_at, output_scale_at, residual_at, y_at, num_rows, residual_stride, outputs,
    SPLITS: tl.constexpr, SCALED: tl.constexpr, ADDED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Adds the splits in their order. Grid: rows, blocks of outputs."""
    t = tl.program_id(0).to(tl.int64)
    o = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = o < outputs
    total = tl.zeros([BLOCK], tl.float32)
    for split in tl.static_range(SPLITS):
        total = total + tl.load(partial_at + (split * num_rows + t) * outputs + o, mask=inside, other=0.0)
    row_scale = tl.load(row_scale_at + t) if SCALED else 1.0
    output_scale = tl.load(output_scale_at + o, mask=inside, other=0.0) if SCALED else 1.0
    y = _finish(total, row_scale, output_scale, residual_at + t * residual_stride + o, inside, SCALED, ADDED)
    tl.store(y_at + t * outputs + o, y.to(y_at.dtype.element_ty), mask=inside)


@jit
def _unpack_int4(
    weight_at, group_at, plain_at, outputs, inputs, GROUP: tl.constexpr, PACK: tl.constexpr, PACKED: tl.constexpr
):  # fmt: skip
    """PACK outputs of one group as plain numbers. Grid: groups, blocks of PACK outputs."""
    group, block = tl.program_id(0), tl.program_id(1)
    o = block * PACK + tl.arange(0, PACK)
    j = tl.arange(0, GROUP // 8)
    first = (block.to(tl.int64) * (inputs // GROUP) + group) * (PACK * (GROUP // 8))
    word = tl.load(weight_at + first + (tl.arange(0, PACK) * (GROUP // 8))[:, None] + j[None, :])
    factor = tl.load(group_at + group * (tl.num_programs(1) * PACK) + o)
    dtype: tl.constexpr = plain_at.dtype.element_ty
    code = _to_integers(word, factor & 15, dtype, PACKED, PACK, GROUP).to(tl.float32)
    plain = code * (factor & -16).to(tl.float32, bitcast=True)[:, None]
    i = group * GROUP + tl.arange(0, GROUP)
    place = o.to(tl.int64)[:, None] * inputs + i[None, :]
    tl.store(plain_at + place, plain.to(dtype), mask=(o < outputs)[:, None])


@jit
def _quantize_rows(
    x_at, codes_at, scale_at, x_stride, INPUTS: tl.constexpr, LARGEST: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """A row per program in e4m3, or in float16 with the same numbers where the chip has no e4m3; and its scale.

    Rounding is to nearest even, done by hand: it is then the same on every chip and under the interpreter.
    """
    row = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, BLOCK)
    inside = i < INPUTS
    x = tl.load(x_at + row * x_stride + i, mask=inside, other=0.0).to(tl.float32)
    peak = tl.max(tl.abs(tl.where(x == x, x, 0.0)), axis=0)
    spoiled = tl.max((x != x).to(tl.int32), axis=0) > 0
    scale = tl.div_rn(peak, LARGEST)
    scale = tl.where(spoiled, float("nan"), tl.where(scale == 0.0, 1.0, scale))
    value = tl.div_rn(x, tl.zeros([BLOCK], tl.float32) + scale)
    bits = value.to(tl.int32, bitcast=True)
    bits = (bits + 0x7FFFF + ((bits >> 20) & 1)) & -0x100000  # three bits of mantissa
    normal = bits.to(tl.float32, bitcast=True)
    subnormal = (value + 24576.0) - 24576.0  # multiples of 2^-9, the unit in the last place of this number
    rounded = tl.where(tl.abs(value) < 0.015625, subnormal, normal)
    rounded = tl.where(value == value, rounded, value)
    tl.store(codes_at + row * INPUTS + i, rounded.to(codes_at.dtype.element_ty), mask=inside)
    tl.store(scale_at + row, scale)
