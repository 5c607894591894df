"""Section: products with weights in every scheme beside cuBLAS, and where the own kernel for few rows stops to win.

O = outputs, I = inputs, T = rows.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from trimode.bench.gpu.comparison import Case, compare
from trimode.bench.gpu.context import Bench
from trimode.bench.gpu.plan import PLAIN
from trimode.bench.gpu.records import Record
from trimode.bench.gpu.timing import Call
from trimode.kernels import linear
from trimode.kernels.linear import quantized

SPREAD = 0.02


def run(bench: Bench) -> None:
    """Measures every matrix of the first model."""
    for name, size in matrices(bench).items():
        bench.guarded(f"crossover {name}", functools.partial(crossover, bench, name, size))
        for scheme in bench.plan.schemes:
            if name == "head" and scheme != PLAIN:
                continue  # the head stays as it is
            for rows in bench.plan.product_rows:
                case = product(bench, name, scheme, rows)
                bench.guarded(f"linear {name} {scheme} {rows} rows", functools.partial(compare, bench, case))


def matrices(bench: Bench) -> dict[str, tuple[int, int]]:
    """Returns the outputs and inputs of every matrix of a layer, and of the head."""
    shape = next(iter(bench.plan.shapes.values()))
    hidden, inner, head_dim = shape["hidden_size"], shape["intermediate_size"], shape["head_dim"]
    heads, kv_heads = shape["num_attention_heads"], shape["num_key_value_heads"]
    return {
        "qkv": ((heads + 2 * kv_heads) * head_dim, hidden),
        "o": (hidden, heads * head_dim),
        "gate_up": (2 * inner, hidden),
        "down": (hidden, inner),
        "head": (shape["vocab_size"], hidden),
    }


def product(bench: Bench, name: str, scheme: str, rows: int) -> Case:
    """Returns the case of one matrix; the rival is `F.linear` with the weight as it was before quantisation."""
    num_outputs, num_inputs = matrices(bench)[name]
    size = bench.plan.dtype.itemsize
    bits = {"fp8": 8, "w4a16": 4}.get(scheme, 8 * size)
    return Case(
        name="linear",
        num_bytes=num_outputs * num_inputs * bits // 8 + rows * (num_inputs + num_outputs) * size,
        flop=2.0 * rows * num_outputs * num_inputs,
        fp8=scheme == "fp8",
        make=functools.partial(_make, bench, (num_outputs, num_inputs), scheme, rows),
        conditions={"matrix": name, "scheme": scheme, "rows": rows},
    )


def _weight(bench: Bench, size: tuple[int, int]) -> torch.Tensor:
    return torch.randn(size, device=bench.device).mul_(SPREAD).to(bench.plan.dtype)


def _make(bench: Bench, size: tuple[int, int], scheme: str, rows: int) -> dict[str, Call]:
    weight = _weight(bench, size)
    x = torch.randn((rows, size[1]), device=bench.device).to(bench.plan.dtype)
    if scheme == PLAIN:
        prepared = linear.prepare(weight.clone())
    else:
        packed = quantized.quantize(weight, quantized.Scheme(scheme), bench.plan.dtype)
        prepared = linear.prepare_quantized(packed)
    return {"trimode": lambda: linear.apply(x, prepared), "F.linear": lambda: F.linear(x, weight)}


def crossover(bench: Bench, name: str, size: tuple[int, int]) -> None:
    """Records up to how many rows the kernel of batch invariance is as fast as `F.linear`; 0 if it never is."""
    weight = _weight(bench, size)
    prepared = linear.prepare(weight.clone(), batch_invariant=True)
    wins = 0
    for rows in bench.plan.crossover_rows:
        x = torch.randn((rows, size[1]), device=bench.device).to(bench.plan.dtype)

        def make(x: torch.Tensor = x) -> dict[str, Call]:
            return {"trimode": lambda: linear.apply(x, prepared), "F.linear": lambda: F.linear(x, weight)}

        num_bytes = (weight.numel() + rows * sum(size)) * weight.element_size()
        case = Case(
            name="linear, batch invariant", num_bytes=num_bytes, flop=2.0 * rows * weight.numel(), make=make,
            conditions={"matrix": name, "rows": rows},
        )  # fmt: skip
        (record,) = compare(bench, case)
        if record.ratio is not None and record.ratio >= 1 and wins == _before(bench.plan.crossover_rows, rows):
            wins = rows
    bench.record(Record(name="linear crossover", value=wins, unit="rows", conditions={"matrix": name}))


def _before(rows: tuple[int, ...], this: int) -> int:
    """The entry before this one, 0 at the first."""
    index = rows.index(this)
    return rows[index - 1] if index else 0
