"""The products of one forward on a CPU: the engine's, torch's and oneDNN's in turn, and the roof of the instructions.

Every product of a model of the benchmark's shape has its own weights, so that all are read from memory, as in a
forward. Run: `python -m trimode.bench.products [--rows 1,8,32] [--layers 24] [--repeats 5]`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from trimode.bench.machine import print_load, print_machine
from trimode.bench.random_checkpoint import BENCH_SHAPE, SPREAD
from trimode.core.command import run_command
from trimode.kernels import linear
from trimode.kernels.linear import Prepared, onednn
from trimode.workers.model.memory import tune_allocator

ROWS = (1, 4, 8, 14, 16, 28, 32, 64, 128, 512)


@dataclass(frozen=True, slots=True)
class Product:
    """One matrix in the layouts of all sides."""

    plain: torch.Tensor
    own: Prepared
    onednn: torch.Tensor | None
    """None where oneDNN has no bfloat16 product."""


def shapes(layers: int) -> list[tuple[int, int]]:
    """Returns outputs and inputs of the products of a forward, in their order."""
    hidden, inner, head_dim = (BENCH_SHAPE[key] for key in ("hidden_size", "intermediate_size", "head_dim"))
    heads, kv_heads = BENCH_SHAPE["num_attention_heads"], BENCH_SHAPE["num_key_value_heads"]
    qkv, attention = ((heads + 2 * kv_heads) * head_dim, hidden), (hidden, heads * head_dim)
    layer = [qkv, attention, (2 * inner, hidden), (hidden, inner)]
    return layer * layers + [(BENCH_SHAPE["vocab_size"], hidden)]


def prepare(layers: int) -> list[Product]:
    """Returns random weights in every layout."""
    chance = torch.Generator().manual_seed(0)
    products = []
    for size in shapes(layers):
        plain = torch.randn(size, generator=chance).mul_(SPREAD).bfloat16()
        packed = onednn.pack(plain) if onednn.supports(plain) is None else None
        products.append(Product(plain, linear.prepare(plain, batch_invariant=True), packed))
    return products


def race(sides: Sequence[Callable[[Product, torch.Tensor], object]], products: list[Product], rows: int, repeats: int
         ) -> list[float]:  # fmt: skip
    """Returns per side the seconds of a forward: the sum over the products of each one's least time of all rounds."""
    inputs = {p.own.num_inputs: torch.randn(rows, p.own.num_inputs).bfloat16() for p in products}
    least = [[float("inf")] * len(products) for _ in sides]
    for round_number in range(repeats + 1):
        for side, best in zip(sides, least, strict=True):
            for n, product in enumerate(products):
                began = time.perf_counter()
                side(product, inputs[product.own.num_inputs])
                seconds = time.perf_counter() - began
                if round_number:  # the first round is not counted
                    best[n] = min(best[n], seconds)
    return [sum(best) for best in least]


def compare(rows: Sequence[int], layers: int, repeats: int) -> None:
    """Prints one line per number of rows."""
    products = prepare(layers)
    sides: dict[str, Callable[[Product, torch.Tensor], object]] = {
        "own": lambda product, x: linear.apply(x, product.own),
        "F.linear": lambda product, x: F.linear(x, product.plain),
    }
    if products[0].onednn is not None:
        sides["oneDNN, packed"] = lambda product, x: onednn.product(x, product.onednn)  # type: ignore[arg-type]
    weights = sum(product.plain.numel() for product in products)
    print(f"own: {linear.describe(products[0].plain, batch_invariant=True)}")
    print(f"{len(products)} products, {2 * weights / 1e9:.2f} GB; least time of {repeats} rounds per product, summed\n")
    print("| rows |" + "".join(f" {name} ms | GFLOP/s |" for name in sides) + " GB/s | own is |")
    print("|---|" + "---|---|" * len(sides) + "---|---|")
    with torch.inference_mode():
        for count in rows:
            seconds = race(list(sides.values()), products, count, repeats)
            cells = "".join(f" {s * 1e3:.1f} | {2 * weights * count / s / 1e9:.0f} |" for s in seconds)
            gain = min(seconds[1:]) / seconds[0]
            print(f"| {count} |{cells} {2 * weights / seconds[0] / 1e9:.1f} | {gain:.2f}x |", flush=True)


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m trimode.bench.products", description=__doc__)
    parser.add_argument("--rows", default=",".join(map(str, ROWS)), help="numbers of rows (default: %(default)s)")
    parser.add_argument("--layers", type=int, default=24, help="layers of the shape (default 24)")
    parser.add_argument("--repeats", type=int, default=5, help="rounds per number of rows (default 5)")
    args = parser.parse_args()
    tune_allocator()  # as in a worker: before the process's first tensor
    print_machine()
    compare([int(part) for part in args.rows.split(",")], args.layers, args.repeats)
    print_load("after")


if __name__ == "__main__":
    run_command(main)
