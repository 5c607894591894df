"""Configurations of the products with a weight: every weight of the models, each scheme, each class of rows."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator

import torch
from trimode.kernels import linear
from trimode.kernels.describe import ModelSizes
from trimode.kernels.linear.quantized import QuantizedWeight, Scheme, group_size_for
from trimode.kernels.linear.tiles import STREAM_ROWS
from trimode.kernels.resources.cases import MODELS, Case, meta

RANK = 128
"""Of the released drafter's LoRA."""
ROWS = (1, 17, 33, 200, 400)
"""One number of rows of each class of tiles."""


def shapes(model: ModelSizes) -> dict[str, tuple[int, int]]:
    """Returns the weights that a model multiplies with, `[O, I]` by name."""
    heads = model.num_heads * model.head_dim
    return {
        "qkv": (heads + 2 * model.num_kv_heads * model.head_dim, model.hidden),
        "o": (model.hidden, heads),
        "gate_up": (2 * model.intermediate, model.hidden),
        "down": (model.hidden, model.intermediate),
        "head": (model.vocab, model.hidden),
        "LoRA A": (RANK, heads),
        "LoRA B": (model.hidden, RANK),
    }


def _quantized(scheme: Scheme, shape: tuple[int, int], dtype: torch.dtype) -> QuantizedWeight:
    outputs, inputs = shape
    group = group_size_for(inputs) if scheme is Scheme.w4a16 else None
    groups = () if group is None else (inputs // group,)
    return QuantizedWeight(
        scheme=scheme,
        codes=meta(outputs, inputs // 2, dtype=torch.uint8) if group else meta(*shape, dtype=torch.float8_e4m3fn),
        scales=meta(outputs, *groups, dtype=torch.float32),
        zeros=None,
        num_outputs=outputs,
        num_inputs=inputs,
        dtype=dtype,
        group_size=group,
    )


def multiply(
    weight: str, model: ModelSizes, dtype: torch.dtype, scheme: Scheme | None, rows: int, *, invariant: bool
) -> None:
    """Prepares a weight and multiplies with it, with a residual where the model adds one."""
    shape = shapes(model)[weight]
    if scheme is None:
        prepared = linear.prepare(meta(*shape, dtype=dtype), batch_invariant=invariant)
    else:
        prepared = linear.prepare_quantized(_quantized(scheme, shape, dtype), batch_invariant=invariant)
    residual = meta(rows, shape[0], dtype=dtype) if weight in ("o", "down") else None
    linear.apply(meta(rows, shape[1], dtype=dtype), prepared, residual)


def _runs(dtype: torch.dtype, scheme: Scheme | None, rows: int, *, invariant: bool) -> bool:
    """True if an own kernel multiplies."""
    if scheme is Scheme.w4a16:
        return dtype != torch.float32
    return invariant or scheme is Scheme.fp8 or (rows <= STREAM_ROWS and dtype != torch.float32)


def _kinds(weight: str, model: str) -> Iterator[tuple[Scheme | None, torch.dtype]]:
    """Yields schemes and dtypes to compile. Other dtypes than the models' differ in nothing but two weights show."""
    for scheme in (None, Scheme.fp8, Scheme.w4a16):
        yield scheme, torch.bfloat16
        if model == "8B" and weight in ("gate_up", "o"):
            yield scheme, torch.float16
            yield scheme, torch.float32


def cases() -> Iterator[Case]:
    """Yields the calls to compile."""
    for name, model in MODELS.items():
        for weight in shapes(model):
            for (scheme, dtype), rows, invariant in itertools.product(_kinds(weight, name), ROWS, (False, True)):
                if not _runs(dtype, scheme, rows, invariant=invariant):
                    continue
                kind = scheme.value if scheme else "plain"
                label = f"{name} {weight} {kind} {str(dtype).removeprefix('torch.')} {rows} rows"
                on_mma = scheme is not None or dtype != torch.float32
                yield Case(
                    op="linear",
                    label=label + " invariant" * invariant,
                    call=functools.partial(multiply, weight, model, dtype, scheme, rows, invariant=invariant),
                    streaming=("_product",) if on_mma else (),
                )
