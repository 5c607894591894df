"""The product with a weight matrix: the weight is prepared once, then multiplied with any number of rows.

T = rows, I = inputs, O = outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import ModuleType

import torch
from trimode.kernels.cuda import runtime
from trimode.kernels.linear import bf16, compact, cpu, gpu, onednn, reference
from trimode.kernels.linear.blocks import OUTPUTS
from trimode.kernels.linear.quantized import QuantizedWeight, Scheme
from trimode.kernels.llvm import jit
from trimode.kernels.llvm.jit import Call
from trimode.kernels.llvm.tape import Scratch, UnboundError


class Layout(StrEnum):
    """How a prepared weight is stored; each layout belongs to one implementation."""

    CPU = "cpu"
    """Blocks of the CPU kernel, whose results do not depend on the other rows."""
    COMPACT = "cpu, unpacked in registers"
    """Blocks of the CPU kernel for 12-bit, 8-bit and 4-bit weights; the rows' results depend on no others either."""
    ONEDNN = "onednn"
    PLAIN = "reference"
    """As the checkpoint has it."""
    QUANTIZED = "quantized"
    """Codes and scales, multiplied by the reference."""
    CUDA = "cuda"
    """What the GPU kernels read, of a plain or a quantised weight."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A weight in the layout of the implementation that multiplies with it."""

    layout: Layout
    weight: torch.Tensor
    num_outputs: int
    num_inputs: int
    dtype: torch.dtype
    """Of the rows and the results, and of a weight that is not quantised."""
    quantized: QuantizedWeight | None = None
    """The whole quantised weight, whose codes are `weight`; None if it is not quantised, or an own kernel
    multiplies."""
    scheme: Scheme | None = None
    """How the weight is quantised; None if it is plain."""
    compact: compact.Compact | None = None
    """The whole weight for the kernel of COMPACT, whose codes are `weight`; None for other implementations."""
    on_gpu: gpu.Weight | None = None
    """The whole weight for the GPU kernels, whose codes are `weight`; None for other implementations."""

    @property
    def nbytes(self) -> int:
        """Bytes of the weight as it is stored."""
        whole = self.on_gpu or self.compact or self.quantized
        return self.weight.nbytes if whole is None else whole.nbytes


def prepare(weight_OI: torch.Tensor, *, batch_invariant: bool = False, packed12: bool = False) -> Prepared:
    """Returns the weight in the layout of the fastest implementation for it; drop the plain weight afterwards.

    On a CPU: the CPU kernel; in bfloat16 oneDNN where the CPU has AMX or the CPU kernel does not run. On a GPU: a
    kernel that streams the weight for few rows, cuBLAS for many. Elsewhere: torch.

    Args:
        weight_OI: a float matrix.
        batch_invariant: True for an implementation whose results do not depend on the other rows of a product, where
            there is one: on a CPU with AMX the CPU kernel, on a GPU the streaming kernel for any number of rows. Both
            are slower there.
        packed12: True to store a bfloat16 weight in 12 bits, without loss, where the CPU kernel does that and the
            weight fits them (`compact.pack`).

    Raises:
        ValueError: the weight is not a float matrix.
    """
    if weight_OI.dim() != 2 or not weight_OI.is_floating_point():
        raise ValueError(f"linear.prepare: got {weight_OI.dtype} {list(weight_OI.shape)}, expected float [O, I]")
    if packed12 and gpu.supports(weight_OI) is not None:
        packed = compact.pack(weight_OI)
        if not isinstance(packed, str):
            return _compact(packed, weight_OI.shape, torch.bfloat16, None)
    layout = _choose(weight_OI, batch_invariant)[0]
    weight, on_gpu = weight_OI, None
    if layout is Layout.CUDA:
        on_gpu = gpu.pack(weight_OI, batch_invariant=batch_invariant)
    elif layout is Layout.ONEDNN:
        weight = onednn.pack(weight_OI)
    elif layout is Layout.CPU:
        weight = _cpu_kernel(weight_OI.dtype).pack(weight_OI)
    num_outputs, num_inputs = weight_OI.shape
    return Prepared(
        layout=layout,
        weight=weight,
        num_outputs=num_outputs,
        num_inputs=num_inputs,
        dtype=weight_OI.dtype,
        on_gpu=on_gpu,
    )


def prepare_quantized(weight: QuantizedWeight, *, batch_invariant: bool = False) -> Prepared:
    """Returns a quantised weight as `apply` takes it; drop the weight afterwards.

    Args:
        weight: codes and scales.
        batch_invariant: True for an implementation whose results do not depend on the other rows of a product.
    """
    if gpu.supports_quantized(weight) is not None and compact.refusal_quantized(weight) is None:
        shape = weight.num_outputs, weight.num_inputs
        return _compact(compact.pack_quantized(weight), shape, weight.dtype, weight.scheme)
    on_gpu = None
    if gpu.supports_quantized(weight) is None:
        on_gpu = gpu.pack_quantized(weight, batch_invariant=batch_invariant)
    return Prepared(
        layout=Layout.QUANTIZED if on_gpu is None else Layout.CUDA,
        weight=weight.codes if on_gpu is None else on_gpu.codes,
        num_outputs=weight.num_outputs,
        num_inputs=weight.num_inputs,
        dtype=weight.dtype,
        quantized=weight if on_gpu is None else None,
        scheme=weight.scheme,
        on_gpu=on_gpu,
    )


def _compact(whole: compact.Compact, shape: Sequence[int], dtype: torch.dtype, scheme: Scheme | None) -> Prepared:
    num_outputs, num_inputs = shape
    return Prepared(
        layout=Layout.COMPACT,
        weight=whole.codes,
        num_outputs=num_outputs,
        num_inputs=num_inputs,
        dtype=dtype,
        scheme=scheme,
        compact=whole,
    )


def apply(x_TI: torch.Tensor, prepared: Prepared, residual_TO: torch.Tensor | None = None) -> torch.Tensor:
    """Returns `x @ weight.T (+ residual)`.

    Args:
        x_TI: any number of rows `[T, I]` in the dtype of `prepared`.
        prepared: the weight, from `prepare` or `prepare_quantized`.
        residual_TO: `[T, O]` in the same dtype, or None to add nothing.

    Returns:
        `[T, O]` in the same dtype, rounded once, after the residual is added; twice by the reference of a weight that
        is not quantised, and by torch's fp8 product of many rows.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit the weight.
    """
    if x_TI.dim() != 2 or x_TI.shape[1] != prepared.num_inputs or x_TI.dtype != prepared.dtype:
        raise ValueError(
            f"linear.apply: got x {x_TI.dtype} {list(x_TI.shape)}, expected {prepared.dtype} [T, {prepared.num_inputs}]"
        )
    if residual_TO is not None and (
        residual_TO.shape != (x_TI.shape[0], prepared.num_outputs) or residual_TO.dtype != x_TI.dtype
    ):
        raise ValueError(
            f"linear.apply: got residual {residual_TO.dtype} {list(residual_TO.shape)}, "
            f"expected {x_TI.dtype} [{x_TI.shape[0]}, {prepared.num_outputs}]"
        )
    for name, tensor in (("x", x_TI), ("residual", residual_TO)):
        if tensor is not None and tensor.device != prepared.weight.device:
            raise ValueError(f"linear.apply: got {name} on {tensor.device}, expected {prepared.weight.device}")
    if prepared.on_gpu is not None:
        return gpu.product(x_TI, prepared.on_gpu, residual_TO)
    if prepared.compact is not None:
        return compact.product(x_TI, prepared.compact, residual_TO)
    if prepared.quantized is not None:
        return reference.quantized_product(x_TI, prepared.quantized, residual_TO)
    if prepared.layout is Layout.CPU:
        multiply = bf16.product if x_TI.dtype == torch.bfloat16 else cpu.product
        return multiply(x_TI, prepared.weight, prepared.num_outputs, residual_TO)
    product = onednn.product if prepared.layout is Layout.ONEDNN else reference.product
    return product(x_TI, prepared.weight, residual_TO)


def prepare_calls(
    x_TI: torch.Tensor, prepared: Prepared, residual_TO: torch.Tensor | None, y_TO: torch.Tensor, scratch: Scratch
) -> list[Call]:
    """Returns the calls that compute `apply` on fixed memory, for a tape.

    Args:
        x_TI: rows, contiguous.
        prepared: the weight.
        residual_TO: contiguous, or None to add nothing.
        y_TO: where the result goes, contiguous. May be the memory of the residual, not that of x.
        scratch: memory for the calls; keep it.

    Raises:
        UnboundError: no CPU kernel multiplies with this weight, or it pads the outputs.
    """
    if prepared.layout not in (Layout.CPU, Layout.COMPACT):
        raise UnboundError(f"no CPU kernel for a weight in the layout {prepared.layout.value}")
    outputs = OUTPUTS if prepared.compact is not None else 2 * jit.num_lanes()
    if prepared.num_outputs % outputs:
        raise UnboundError(f"{prepared.num_outputs} outputs are no multiple of {outputs}")
    if prepared.compact is not None:
        return compact.prepare(x_TI, prepared.compact, residual_TO, y_TO)
    prepare_product = bf16.prepare if prepared.dtype == torch.bfloat16 else cpu.prepare
    return prepare_product(x_TI, prepared.weight, residual_TO, y_TO, scratch)


def describe(weight_OI: torch.Tensor, *, batch_invariant: bool = False) -> str:
    """Returns which implementation multiplies with such a weight, and why."""
    layout, reason = _choose(weight_OI, batch_invariant)
    if layout is Layout.CUDA:
        return f"{runtime.describe(weight_OI, None)}, {gpu.describe(weight_OI.dtype, batch_invariant=batch_invariant)}"
    if layout is Layout.CPU:
        return jit.describe(None) if weight_OI.dtype == torch.float32 else bf16.describe()
    return f"{layout}: {reason}"


def _cpu_kernel(dtype: torch.dtype) -> ModuleType:
    """The CPU kernel for rows and weights of a dtype; the one for float32 says why it takes no other."""
    return bf16 if dtype == torch.bfloat16 else cpu


def _choose(weight_OI: torch.Tensor, batch_invariant: bool) -> tuple[Layout, str]:
    """The layout for a weight, and why it is none of the own kernels'."""
    refused = gpu.supports(weight_OI)
    if refused is None:
        return Layout.CUDA, ""
    if weight_OI.is_cuda:
        return Layout.PLAIN, refused
    refused = _cpu_kernel(weight_OI.dtype).supports(weight_OI)
    if onednn.supports(weight_OI) is None and (refused is not None or (onednn.has_amx() and not batch_invariant)):
        return Layout.ONEDNN, refused or "this CPU has AMX"
    return (Layout.CPU, "") if refused is None else (Layout.PLAIN, refused)
