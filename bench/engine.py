"""The engine's speed beside its rivals on one machine, in one run: steps, throughput in every mode, host gap, memory.

Weights are random: every request ignores end tokens, and the tokens per forward are fixed, not learned. Numbers of dlm
and linear_spec therefore compare forwards. Run: `python -m trimode.bench.engine [--repeats N] [--tiny]`.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import torch
from trimode.bench.demo_engine import compare_demo
from trimode.bench.loads import AR, CONCURRENT, CONTEXT, compare_loads, weight_bytes_per_forward
from trimode.bench.machine import Machine, measure_machine, print_load, print_machine
from trimode.bench.random_checkpoint import BENCH_SHAPE, TINY_SHAPE, write_checkpoint
from trimode.bench.rivals import RIVALS, Rival, rival, time_steps
from trimode.core.command import run_command
from trimode.core.protocol import WeightStorage, WorkerSettings
from trimode.workers.decode.chunk import Chunk
from trimode.workers.model.batch import pack
from trimode.workers.model.kv_cache import PAGE_SIZE, pages_for
from trimode.workers.model.memory import tune_allocator
from trimode.workers.runtime import Runtime
from trimode.workers.sampling.plan import SampleRequest
from trimode.workers.sampling.sampler import Sampler

STEP_TOKENS = (1, 8, 16, 32, 64)


def own_step(runtime: Runtime, context: int) -> Callable[[int], None]:
    """Returns one request's step of n causal tokens after the context, from packing to the tokens on the host."""
    engine = runtime.engine
    sampler = Sampler(engine.model.head, engine.model.config.mask_token_id)
    pages = list(range(pages_for(context + max(STEP_TOKENS))))

    def run(position: int, count: int) -> None:
        ids = torch.randint(engine.model.config.vocab_size, (count,)).tolist()
        chunk = Chunk("decode", ids, position, causal=True, keep_kv=True, rows=range(count), purpose="decode")
        hidden = engine.model.forward(pack([chunk], [pages], PAGE_SIZE, engine.model.device), engine.runner.cache)
        sampler(hidden, [SampleRequest(chunk, AR)])

    run(0, context)
    return lambda count: run(context, count)


def compare_steps(runtime: Runtime, rivals: dict[str, Rival], machine: Machine, repeats: int) -> dict[int, float]:
    """Prints one line per step size. Returns the seconds of the transformers step by size (ours if it is absent)."""
    step = own_step(runtime, CONTEXT)
    num_bytes = weight_bytes_per_forward(runtime.engine.model)
    names = list(rivals)
    print("\n| tokens | trimode ms | of read roof | x own 1-token step", end=" |")
    print("".join(f" {name} ms | trimode is |" for name in names))
    print("|---|---|---|---|" + "---|---|" * len(names))
    first, reference, reads = 0.0, {}, list[float]()
    for tokens in STEP_TOKENS:
        ours: list[float] = []
        theirs: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(3):  # in turn, so that all see the same machine
            reads += [machine.read_s(num_bytes) for _ in range(repeats)]
            ours += time_steps(lambda: step(tokens), repeats)  # noqa: B023 -- called at once
            for name in names:
                theirs[name] += rivals[name].seconds(tokens, repeats)
        own = median(ours)
        first = first or own
        reference[tokens] = median(theirs.get("transformers", ours))
        print(f"| {tokens} | {own * 1e3:.1f} | {median(reads) / own:.0%} | {own / first:.2f}", end=" |")
        print("".join(f" {median(theirs[n]) * 1e3:.1f} | {median(theirs[n]) / own:.2f}x |" for n in names), flush=True)
    rate = num_bytes / median(reads) / 1e9
    print(f"read roof: {num_bytes / 1e9:.2f} GB a forward in {median(reads) * 1e3:.1f} ms, {rate:.1f} GB/s")
    return reference


def memory_mib(key: str) -> float:
    """Returns a memory counter of this process in MiB: `RssAnon` is current, `VmHWM` the peak with mapped files."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024


def compare(
    shape: dict[str, Any], cache_gib: float, repeats: int, folder: Path, *, steps_only: bool, storage: str
) -> None:
    """Writes the checkpoint, starts the rivals and prints the tables of the random-weight model."""
    tune_allocator()  # as in a worker: before the process's first tensor
    write_checkpoint(folder, shape)
    with ExitStack() as stack:
        found = {name: stack.enter_context(rival(name, shape, CONTEXT, folder)) for name in RIVALS}
        rivals = {name: process for name, process in found.items() if process is not None}
        for name in found.keys() - rivals.keys():
            print(f"{name} is not installed: left out")
        machine = measure_machine(1024 if cache_gib >= 1 else 8, 3 * repeats)
        ctypes.CDLL(None).malloc_trim(0)  # what the lines above freed must not be counted as the engine's saving
        before = memory_mib("RssAnon")
        seqs = max(CONCURRENT)
        runtime = Runtime(
            WorkerSettings(
                model=str(folder), device="cpu", max_num_seqs=seqs, kv_cache_gb=cache_gib, weight_storage=storage
            )
        )
        print(f"weights: {runtime.engine.model.storage}")
        model = runtime.engine.model
        os.sync()  # the weights have just been written, and writing them to the disk takes memory's bandwidth
        reference = compare_steps(runtime, rivals, machine, repeats)
    if steps_only:
        return
    compare_loads(runtime, reference, machine, repeats)
    budget = model.num_weight_bytes / 2**20 + cache_gib * 1024
    grown = memory_mib("RssAnon") - before
    print(
        f"\nmemory: {grown:.0f} MiB more than before loading; weights and cache are {budget:.0f}: {grown / budget:.2f}x"
    )


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m trimode.bench.engine", description=__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="measurements per number; medians are shown (default 5)")
    parser.add_argument("--tiny", action="store_true", help="a tiny model: it runs, but its numbers mean nothing")
    parser.add_argument("--steps-only", action="store_true", help="the table of single steps only")
    storages = [storage.value for storage in WeightStorage]
    parser.add_argument("--weight-storage", choices=storages, default="auto", help="as in a worker (default auto)")
    args = parser.parse_args()
    print_machine()
    shape, cache_gib = (TINY_SHAPE, 0.05) if args.tiny else (BENCH_SHAPE, 1.0)
    with tempfile.TemporaryDirectory() as folder:
        compare(shape, cache_gib, args.repeats, Path(folder), steps_only=args.steps_only, storage=args.weight_storage)
    if not args.steps_only:
        compare_demo(requests=4 if args.tiny else 64)
    print_load("after")


if __name__ == "__main__":
    run_command(main)
