"""The product with a weight matrix: the weight is prepared once, then multiplied with any number of rows.

T = rows, I = inputs, O = outputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import torch
from trimode.kernels.linear import cpu, onednn, reference
from trimode.kernels.linear.quantized import QuantizedWeight
from trimode.kernels.llvm import jit


class Layout(StrEnum):
    """How a prepared weight is stored; each layout belongs to one implementation."""

    CPU = "cpu"
    """Blocks of the CPU kernel, whose results do not depend on the other rows."""
    ONEDNN = "onednn"
    PLAIN = "reference"
    """As the checkpoint has it."""
    QUANTIZED = "quantized"
    """Codes and scales, multiplied by the reference."""


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
    """The whole quantised weight, whose codes are `weight`; None if it is not quantised."""

    @property
    def nbytes(self) -> int:
        """Bytes of the weight as it is stored."""
        return self.weight.nbytes if self.quantized is None else self.quantized.nbytes


def prepare(weight_OI: torch.Tensor, *, batch_invariant: bool = False) -> Prepared:
    """Returns the weight in the layout of the fastest implementation for it; drop the plain weight afterwards.

    On a CPU: the CPU kernel; in bfloat16 oneDNN where the CPU has AMX or the CPU kernel does not run. Elsewhere: torch.

    Args:
        weight_OI: a float matrix.
        batch_invariant: True for an implementation whose results do not depend on the other rows of a product, where
            there is one: on a CPU with AMX the CPU kernel, which is slower there.

    Raises:
        ValueError: the weight is not a float matrix.
    """
    if weight_OI.dim() != 2 or not weight_OI.is_floating_point():
        raise ValueError(f"linear.prepare: got {weight_OI.dtype} {list(weight_OI.shape)}, expected float [O, I]")
    layout = _choose(weight_OI, batch_invariant)[0]
    weight = weight_OI
    if layout is not Layout.PLAIN:
        weight = cpu.pack(weight_OI) if layout is Layout.CPU else onednn.pack(weight_OI)
    num_outputs, num_inputs = weight_OI.shape
    return Prepared(layout=layout, weight=weight, num_outputs=num_outputs, num_inputs=num_inputs, dtype=weight_OI.dtype)


def prepare_quantized(weight: QuantizedWeight, *, batch_invariant: bool = False) -> Prepared:
    """Returns a quantised weight as `apply` takes it; drop the weight afterwards.

    Args:
        weight: codes and scales.
        batch_invariant: True for an implementation whose results do not depend on the other rows of a product.
    """
    del batch_invariant  # there is one implementation only
    return Prepared(
        layout=Layout.QUANTIZED,
        weight=weight.codes,
        num_outputs=weight.num_outputs,
        num_inputs=weight.num_inputs,
        dtype=weight.dtype,
        quantized=weight,
    )


def apply(x_TI: torch.Tensor, prepared: Prepared, residual_TO: torch.Tensor | None = None) -> torch.Tensor:
    """Returns `x @ weight.T (+ residual)`.

    Args:
        x_TI: any number of rows `[T, I]` in the dtype of `prepared`.
        prepared: the weight, from `prepare` or `prepare_quantized`.
        residual_TO: `[T, O]` in the same dtype, or None to add nothing.

    Returns:
        `[T, O]` in the same dtype. The CPU kernel and oneDNN round once, after the residual is added.

    Raises:
        ValueError: shapes or dtypes that do not fit the weight.
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
    if prepared.quantized is not None:
        return reference.quantized_product(x_TI, prepared.quantized, residual_TO)
    if prepared.layout is Layout.CPU:
        return cpu.product(x_TI, prepared.weight, prepared.num_outputs, residual_TO)
    product = onednn.product if prepared.layout is Layout.ONEDNN else reference.product
    return product(x_TI, prepared.weight, residual_TO)


def describe(weight_OI: torch.Tensor, *, batch_invariant: bool = False) -> str:
    """Returns which implementation multiplies with such a weight, and why."""
    layout, reason = _choose(weight_OI, batch_invariant)
    return jit.describe(None) if layout is Layout.CPU else f"{layout}: {reason}"


def _choose(weight_OI: torch.Tensor, batch_invariant: bool) -> tuple[Layout, str]:
    """The layout for a weight, and why it is not the CPU kernel's."""
    refused = cpu.supports(weight_OI)
    if onednn.supports(weight_OI) is None and (refused is not None or (onednn.has_amx() and not batch_invariant)):
        return Layout.ONEDNN, refused or "this CPU has AMX"
    return (Layout.CPU, "") if refused is None else (Layout.PLAIN, refused)
