"""The product of rows with a bfloat16 weight on a CPU: pairs of inputs, summed in float32 in one fixed order.

CPUs with AVX512-BF16 multiply a pair of bfloat16 and add it to a float32 sum in one instruction, twice the rate of
float32. Other CPUs widen the numbers and do two float32 multiplications, in the order of the instruction: the results
are the same to the last bit. Subnormal numbers count as 0, as the instruction has it.

T = rows, I = inputs, O = outputs, L = lanes of a vector, B = blocks of 2L outputs. A packed weight is
`[B, I / 2, 2L, 2]`.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from trimode.kernels.linear import rows
from trimode.kernels.linear.pairs import MAX_ROWS, Arithmetic, WeightFormat, bf16_format, product_kernel
from trimode.kernels.llvm import jit
from trimode.kernels.llvm.jit import Call
from trimode.kernels.llvm.ranges import RangeKernel
from trimode.kernels.llvm.tape import Scratch

_OWN_COPY_ROWS = 64
"""Up to so many rows every thread makes its own transposed copy, which saves a second parallel region."""


def supports(weight_OI: torch.Tensor) -> str | None:
    """Returns None if `pack` takes this weight on this machine, otherwise the reason."""
    return rows.refusal(weight_OI, torch.bfloat16, "pairs of inputs are made for")


def describe() -> str:
    """Returns what the CPU's vectors do, and why."""
    if jit.has_bf16_dot():
        return f"{jit.describe(None)} of bfloat16 (AVX512-BF16)"
    return f"{jit.describe(None)} of float32: a CPU without AVX512-BF16"


def pack(weight_OI: torch.Tensor) -> torch.Tensor:
    """Returns the weight in blocks, its outputs padded with zeros to whole blocks."""
    lanes = jit.num_lanes()
    missing = -weight_OI.shape[0] % (2 * lanes)
    whole = F.pad(weight_OI, (0, 0, 0, missing)) if missing else weight_OI
    return whole.reshape(-1, 2 * lanes, weight_OI.shape[1] // 2, 2).permute(0, 2, 1, 3).contiguous()


def product(
    x_TI: torch.Tensor, packed: torch.Tensor, num_outputs: int, residual_TO: torch.Tensor | None = None
) -> torch.Tensor:
    """`x @ weight.T (+ residual)`, `[T, O]` in bfloat16, rounded once; `packed` comes from `pack`."""
    lanes, dot = jit.num_lanes(), jit.has_bf16_dot()
    return _multiply(_plain_kernel(lanes, dot), x_TI, packed, packed.shape[0], num_outputs, residual_TO, ())


def product_of(
    x_TI: torch.Tensor, packed: torch.Tensor, weights: WeightFormat, blocks: int, num_outputs: int,
    residual_TO: torch.Tensor | None = None, extra: tuple[int, ...] = (),
) -> torch.Tensor:  # fmt: skip
    """The same with a weight in any format, of which `packed` holds the bytes.

    Args:
        x_TI: bfloat16 rows.
        packed: the weight, its outputs padded to whole blocks of 2L.
        weights: how it is stored. The kernel is compiled once per format.
        blocks: number of blocks.
        num_outputs: outputs without the padding.
        residual_TO: bfloat16, or None.
        extra: the format's own arguments.
    """
    kernel = _kernel(jit.num_lanes(), Arithmetic(dot=jit.has_bf16_dot()), weights)
    return _multiply(kernel, x_TI, packed, blocks, num_outputs, residual_TO, extra)


def _multiply(
    kernel: RangeKernel, x_TI: torch.Tensor, packed: torch.Tensor, blocks: int, num_outputs: int,
    residual_TO: torch.Tensor | None, extra: tuple[int, ...],
) -> torch.Tensor:  # fmt: skip
    width = 2 * blocks * jit.num_lanes()

    def prepare_calls(
        x_TI: torch.Tensor, residual_TW: torch.Tensor | None, y_TW: torch.Tensor, scratch: Scratch
    ) -> list[Call]:
        return _prepare(kernel, x_TI, packed, residual_TW, y_TW, scratch, extra)

    return rows.run_padded(prepare_calls, x_TI, width, num_outputs, residual_TO)


def prepare(
    x_TI: torch.Tensor, packed: torch.Tensor, residual_TW: torch.Tensor | None, y_TW: torch.Tensor, scratch: Scratch
) -> list[Call]:
    """Returns the calls that write the product into `y_TW`. W = outputs padded to whole blocks.

    The inputs of a row of x stand one behind the other; y and residual are contiguous.
    """
    return _prepare(_plain_kernel(jit.num_lanes(), jit.has_bf16_dot()), x_TI, packed, residual_TW, y_TW, scratch, ())


def _prepare(
    kernel: RangeKernel, x_TI: torch.Tensor, packed: torch.Tensor, residual_TW: torch.Tensor | None,
    y_TW: torch.Tensor, scratch: Scratch, extra: tuple[int, ...],
) -> list[Call]:  # fmt: skip
    words, (num_rows, width) = jit.has_bf16_dot(), y_TW.shape
    blocks, num_pairs = width // (2 * jit.num_lanes()), x_TI.shape[1] // 2
    x, y, stride = x_TI.data_ptr(), y_TW.data_ptr(), x_TI.stride(0)
    residual = 0 if residual_TW is None else residual_TW.data_ptr()
    portions = -(-num_rows // MAX_ROWS)
    calls = []
    for portion in range(portions):
        start, end = num_rows * portion // portions, num_rows * (portion + 1) // portions
        of_rows = x + 2 * start * stride, stride, end - start, num_pairs
        arguments, copy = _values(of_rows, scratch, words=words)
        offset = 2 * start * width
        rest = packed.data_ptr(), y + offset, residual and residual + offset, width
        calls += [*copy, kernel.prepare(blocks, *arguments, *rest, *extra)]
    return calls


def _values(of_rows: tuple[int, int, int, int], scratch: Scratch, *, words: bool) -> tuple[tuple[int, ...], list[Call]]:
    """Says how the kernel reads at most MAX_ROWS rows.

    Args:
        of_rows: address of x, elements from a row to the next, rows and pairs of inputs.
        scratch: for the copies.
        words: True for rows as words, False for float32.

    Returns:
        The kernel's arguments of the rows, with the address for each thread's own copy of them, or 0; and the call
        that copies them before, if there is one.
    """
    _, stride, num_rows, num_pairs = of_rows
    lanes = jit.num_lanes()
    if num_rows == 1 and words:
        return (*of_rows, 1, 0), []
    tiles = -(-num_rows // rows.tile_rows(lanes))
    size = rows.num_bytes(num_rows, num_pairs, tiles, lanes, words=words)
    if num_rows <= _OWN_COPY_ROWS:
        return (*of_rows, tiles, scratch.room(size * torch.get_num_threads())), []
    room = scratch.room(size)
    groups = size // (4 * lanes * -(-num_rows // tiles))
    copy = rows.copy_kernel(lanes, words=words).prepare(groups, *of_rows, tiles, room)
    return (room, stride, num_rows, num_pairs, tiles, 0), [copy]


@functools.cache
def _kernel(lanes: int, arithmetic: Arithmetic, weights: WeightFormat) -> RangeKernel:
    return product_kernel(lanes, arithmetic, weights)


@functools.cache
def _plain_kernel(lanes: int, dot: bool) -> RangeKernel:
    return _kernel(lanes, Arithmetic(dot=dot), bf16_format(lanes))
