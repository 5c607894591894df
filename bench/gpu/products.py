"""Section: products with weights in every scheme beside cuBLAS, and where the own kernel for few rows stops to win.

O = outputs, I = inputs, T = rows.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from trimode.bench.gpu.comparison import MAX_INPUTS, OURS, Case, compare
from trimode.bench.gpu.context import Bench
from trimode.bench.gpu.plan import PLAIN
from trimode.bench.gpu.records import Record
from trimode.bench.gpu.timing import Call, Timing, time_calls
from trimode.kernels import linear
from trimode.kernels.linear import quantized

SPREAD = 0.02
SPEND = 0.6
"""Of the plan's time per number: there are many."""
Rivals = dict[tuple[str, int], Timing]
"""`F.linear` by matrix and rows."""
OWN = "batch invariant"
"""The plain weight with batch invariance on: the own kernel for few rows."""


def run(bench: Bench) -> None:
    """Measures every matrix of the first model."""
    rivals: Rivals = {}
    for scheme in (*bench.plan.schemes, OWN):
        for name in matrices(bench):
            if name == "head" and scheme not in (PLAIN, OWN):
                continue  # the head stays as it is
            what = f"linear {name} {scheme}"
            if bench.is_out_of_time(f"{what} and all after it"):
                return
            bench.guarded(what, functools.partial(_matrix, bench, name, scheme, rivals))


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


@dataclass(frozen=True, slots=True)
class _Weight:
    plain: torch.Tensor
    prepared: linear.Prepared


def _matrix(bench: Bench, name: str, scheme: str, rivals: Rivals) -> None:
    """Measures one matrix in one scheme at every number of rows."""
    size = matrices(bench)[name]
    first = _weight(bench, size, scheme)
    wanted = min(MAX_INPUTS, bench.plan.fill_bytes // first.prepared.nbytes + 1)
    weights = [first, *(_weight(bench, size, scheme) for _ in range(wanted - 1))]
    rows = bench.plan.crossover_rows if scheme == OWN else bench.plan.product_rows
    ratios = [_compare(bench, weights, rivals, {"matrix": name, "scheme": scheme, "rows": each}) for each in rows]
    if scheme == OWN:
        wins = itertools.takewhile(lambda pair: pair[1] >= 1, zip(rows, ratios, strict=True))
        last = max((each for each, _ in wins), default=0)
        bench.record(Record(name="linear crossover", value=last, unit="rows", conditions={"matrix": name}))


def _weight(bench: Bench, size: tuple[int, int], scheme: str) -> _Weight:
    plain = torch.randn(size, device=bench.device).mul_(SPREAD).to(bench.plan.dtype)
    if scheme in (PLAIN, OWN):
        return _Weight(plain, linear.prepare(plain, batch_invariant=scheme == OWN))
    packed = quantized.quantize(plain, quantized.Scheme(scheme), bench.plan.dtype)
    return _Weight(plain, linear.prepare_quantized(packed))


def _compare(bench: Bench, weights: list[_Weight], rivals: Rivals, conditions: dict[str, str | int]) -> float:
    """Measures a matrix at one number of rows beside `F.linear` with the plain weight. Returns the ratio."""
    prepared = weights[0].prepared
    rows = int(conditions["rows"])
    key = str(conditions["matrix"]), rows
    if key not in rivals:
        make = _maker(bench, rows, itertools.cycle(weights), plain=True)
        rivals[key] = time_calls([make()[OURS] for _ in weights], bench.device, SPEND * bench.plan.spend_s)
    make = _maker(bench, rows, itertools.cycle(weights), plain=False)
    case = Case(
        name="linear",
        num_bytes=prepared.nbytes + rows * (prepared.num_inputs + prepared.num_outputs) * bench.plan.dtype.itemsize,
        flop=2.0 * rows * prepared.num_outputs * prepared.num_inputs,
        fp8=conditions["scheme"] == "fp8",
        spend=SPEND,
        make=make,
        conditions=conditions,
    )
    (record,) = compare(bench, case, {"F.linear": rivals[key]})
    return record.ratio or 0.0


def _maker(bench: Bench, rows: int, weights: Iterable[_Weight], *, plain: bool) -> Callable[[], dict[str, Call]]:
    turns = iter(weights)

    def make() -> dict[str, Call]:
        weight = next(turns)
        x_TI = torch.randn((rows, weight.prepared.num_inputs), device=bench.device).to(bench.plan.dtype)
        if plain:
            return {OURS: lambda: F.linear(x_TI, weight.plain)}
        return {OURS: lambda: linear.apply(x_TI, weight.prepared)}

    return make
