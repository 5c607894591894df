"""`python -m trimode.bench.packed_weights`: products and steps on a CPU with weights of 16, 12, 8 and 4 bits.

All kinds take turns, and so does llama.cpp where it is installed, each at its own kind of the same number of bits.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import torch
from trimode.bench.engine import own_step
from trimode.bench.loads import CONTEXT, weight_bytes_per_forward
from trimode.bench.machine import print_load, print_machine
from trimode.bench.products import shapes
from trimode.bench.random_checkpoint import BENCH_SHAPE, SPREAD, TINY_SHAPE, write_checkpoint
from trimode.bench.rivals import rival, time_steps
from trimode.core.command import run_command
from trimode.core.protocol import WorkerSettings
from trimode.kernels import linear
from trimode.kernels.linear import Prepared, quantized
from trimode.kernels.linear.quantized import Scheme, quantize
from trimode.workers.model.memory import tune_allocator
from trimode.workers.runtime import Runtime

KINDS: dict[str, dict[str, Any]] = {
    "bf16": {"weight_storage": "bf16"},
    "packed12": {"weight_storage": "packed12"},
    "w8a16": {"quantization": "w8a16", "quantize_head": True},
    "w4a16": {"quantization": "w4a16", "quantize_head": True},
}
"""Name -> settings of the worker."""
RIVAL_OF = {
    "bf16": "llama.cpp", "packed12": "llama.cpp", "w8a16": "llama.cpp Q8_0", "w4a16": "llama.cpp Q4_0",
}  # fmt: skip
ROWS = (1, 4, 8, 16, 32, 64, 128, 512)
STEPS = (1, 8, 32)


def prepared(kind: str, plain: torch.Tensor) -> Prepared:
    """Returns a matrix as a worker with these settings holds it."""
    if kind in ("bf16", "packed12"):
        return linear.prepare(plain, batch_invariant=True, packed12=kind == "packed12")
    return linear.prepare_quantized(quantize(plain, Scheme(kind), torch.bfloat16), batch_invariant=True)


def compare_products(layers: int, repeats: int) -> None:
    """Prints the products of a forward: each one's least time of all rounds, summed."""
    chance = torch.Generator().manual_seed(0)
    sides: dict[str, list[Prepared]] = {kind: [] for kind in KINDS}
    for size in shapes(layers):
        plain = torch.randn(size, generator=chance).mul_(SPREAD).bfloat16()
        for kind, matrices in sides.items():
            matrices.append(prepared(kind, plain))
    sizes = {kind: sum(matrix.nbytes for matrix in matrices) for kind, matrices in sides.items()}
    print(f"\n{layers} layers, {len(shapes(layers))} products; least time of {repeats} rounds per product, summed\n")
    print("| rows |" + "".join(f" {kind} ms | GB/s | of bf16 |" for kind in KINDS))
    print("|---|" + "---|---|---|" * len(KINDS))
    for rows in ROWS:
        least = _race(sides, rows, repeats)
        cells = (
            f" {s * 1e3:.1f} | {sizes[kind] / s / 1e9:.1f} | {s / least['bf16']:.2f} |" for kind, s in least.items()
        )
        print(f"| {rows} |{''.join(cells)}", flush=True)


def _race(sides: dict[str, list[Prepared]], rows: int, repeats: int) -> dict[str, float]:
    inputs = {p.num_inputs: torch.randn(rows, p.num_inputs).bfloat16() for p in next(iter(sides.values()))}
    least = {kind: [float("inf")] * len(matrices) for kind, matrices in sides.items()}
    for round_number in range(repeats + 1):
        for kind, matrices in sides.items():
            for n, matrix in enumerate(matrices):
                began = time.perf_counter()
                linear.apply(inputs[matrix.num_inputs], matrix)
                seconds = time.perf_counter() - began
                if round_number:  # the first round is not counted
                    least[kind][n] = min(least[kind][n], seconds)
    return {kind: sum(best) for kind, best in least.items()}


def compare_steps(shape: dict[str, Any], cache_gib: float, repeats: int, folder: Path) -> None:
    """Prints one request's steps of some tokens after a context, from packing to the tokens on the host."""
    write_checkpoint(folder, shape)
    with ExitStack() as stack:
        found = {name: stack.enter_context(rival(name, shape, CONTEXT, folder)) for name in set(RIVAL_OF.values())}
        steps: dict[str, Callable[[int], None]] = {}
        print("\n| weights | MB read a forward | what runs |\n|---|---|---|")
        for kind, settings in KINDS.items():
            worker = WorkerSettings(
                model=str(folder), device="cpu", max_num_seqs=1, kv_cache_gb=cache_gib, batch_invariant=True, **settings
            )
            runtime = Runtime(worker)
            steps[kind] = own_step(runtime, CONTEXT)
            said = runtime.describe_kernels()
            runs = said.get(f"linear, {kind}") or said["weight_storage"]
            print(f"| {kind} | {weight_bytes_per_forward(runtime.engine.model) / 1e6:.0f} | {runs} |", flush=True)
        print("\n| tokens | weights | trimode ms | bf16 is | llama.cpp ms | llama.cpp is |\n|---|---|---|---|---|---|")
        for tokens in STEPS:
            own: dict[str, list[float]] = {kind: [] for kind in KINDS}
            theirs: dict[str, list[float]] = {name: [] for name in found}
            for _ in range(3):  # in turn, so that all see the same machine
                for kind, step in steps.items():
                    own[kind] += time_steps(lambda: step(tokens), repeats)  # noqa: B023 -- called at once
                for name, process in found.items():
                    theirs[name] += [] if process is None else process.seconds(tokens, repeats)
            for kind, seconds in own.items():
                mine, other = median(seconds), theirs[RIVAL_OF[kind]]
                cells = f"{median(other) * 1e3:.1f} | {median(other) / mine:.2f}x" if other else "not installed | -"
                gain = median(own["bf16"]) / mine
                print(f"| {tokens} | {kind} | {mine * 1e3:.1f} | {gain:.2f}x | {cells} |", flush=True)


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m trimode.bench.packed_weights", description=__doc__)
    parser.add_argument("--repeats", type=int, default=8, help="measurements per number (default 8)")
    parser.add_argument("--layers", type=int, default=12, help="layers in the race of the products (default 12)")
    parser.add_argument("--only", choices=["products", "steps"], help="one of the two tables (default: both)")
    parser.add_argument("--tiny", action="store_true", help="a tiny model: it runs, but its numbers mean nothing")
    args = parser.parse_args()
    tune_allocator()
    setattr(quantized, "SHRINKS", (1.0,))  # noqa: B010 -- the search for the best range takes minutes and changes no time measured here
    print_machine()
    with torch.inference_mode():
        if args.only != "steps":
            compare_products(1 if args.tiny else args.layers, args.repeats)
    if args.only != "products":
        shape, cache_gib = (TINY_SHAPE, 0.05) if args.tiny else (BENCH_SHAPE, 0.1)
        with tempfile.TemporaryDirectory() as folder:
            compare_steps(shape, cache_gib, args.repeats, Path(folder))
    print_load("after")


if __name__ == "__main__":
    run_command(main)
