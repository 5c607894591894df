"""The engine's speed beside its rivals on one machine, in one run: steps, throughput in every mode, host gap, memory.

Weights are random: every request ignores end tokens, and the tokens per forward are fixed, not learned. Numbers of dlm
and linear_spec therefore compare forwards. Run: `python -m trimode.bench.engine [--repeats N] [--tiny]`.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from trimode.bench.demo_engine import compare_demo
from trimode.bench.random_checkpoint import BENCH_SHAPE, TINY_SHAPE, write_checkpoint
from trimode.bench.rivals import RIVALS, Rival, rival, time_steps
from trimode.core.protocol import DecodeParams, WorkerSettings
from trimode.kernels import linear
from trimode.workers.decode.chunk import Chunk
from trimode.workers.engine.scheduler import Sequence
from trimode.workers.model.batch import pack
from trimode.workers.model.kv_cache import PAGE_SIZE, pages_for
from trimode.workers.model.memory import tune_allocator
from trimode.workers.model.transformer import TriModeModel
from trimode.workers.runtime import Runtime
from trimode.workers.sampling.plan import SampleRequest
from trimode.workers.sampling.sampler import Sampler

CONTEXT = 256
STEP_TOKENS = (1, 8, 16, 32, 64)
CONCURRENT = (1, 8, 32)
NEW_TOKENS = 320
"""More than any measurement decodes. The cache holds 32 requests of this length."""
AR = DecodeParams(mode="ar", max_new_tokens=1, block_length=1, threshold=None)


@dataclass(frozen=True, slots=True)
class Load:
    """One mode under load. The quota of dlm gives 1 token per forward, whatever the weights are."""

    mode: str
    block_length: int
    threshold: float | None
    steps: int
    """Number of steps in one measurement: whole cycles of the mode."""


LOADS = (
    Load("ar", 1, None, 16), Load("dlm", 8, None, 8), Load("linear_spec", 8, 0.0, 8), Load("linear_spec", 32, 0.0, 4)
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Machine:
    """What this machine can do, measured in this run."""

    data: torch.Tensor
    """Data to stream when memory bandwidth is measured; larger than any cache."""
    flop_per_s: float
    """Rate of `F.linear` in bfloat16."""
    own_flop_per_s: float
    """Rate of the engine's own product of the same matrices."""

    def read_s(self, num_bytes: int) -> float:
        """Seconds to stream `num_bytes` from memory with all threads, measured now."""
        began = time.perf_counter()
        self.data.sum()
        return (time.perf_counter() - began) * num_bytes / self.data.nbytes


def measure_machine(size: int, repeats: int) -> Machine:
    """Measures products of 1024 x 4096 by 4096 x 4096 in bfloat16; keeps `size` MiB to measure bandwidth later."""
    x, weight = torch.randn(1024, 4096).bfloat16(), torch.randn(4096, 4096).bfloat16()
    own = linear.prepare(weight)
    flop = 2 * 1024 * 4096 * 4096
    plain_s = median(time_steps(lambda: F.linear(x, weight), repeats))
    own_s = median(time_steps(lambda: linear.apply(x, own), repeats))
    return Machine(torch.ones(size << 18), flop / plain_s, flop / own_s)


def weight_bytes_per_forward(model: TriModeModel) -> int:
    """Returns the bytes that every forward reads: all weights but the embedding, which gives one row per token."""
    return model.num_weight_bytes - model.embedding.numel() * model.embedding.element_size()


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


@dataclass(frozen=True, slots=True)
class Throughput:
    """Medians over the measurements of one load."""

    tokens_per_s: float
    forwards_per_s: float
    """Forwards of requests: rows of a step, not steps."""
    flop_per_s: float
    """Counts products with weights only, no attention."""
    host_gap: float
    """Share of a step's time outside the model and the sampler."""


class _CountingHead:
    def __init__(self, head: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self._head = head
        self.rows = 0

    def __call__(self, hidden_RH: torch.Tensor) -> torch.Tensor:  # noqa: N803 -- as the model's
        self.rows += hidden_RH.shape[0]
        return self._head(hidden_RH)


def measure_load(runtime: Runtime, load: Load, concurrent: int, repeats: int) -> Throughput:
    """Decodes `concurrent` requests with different prompts of CONTEXT tokens; only steps after all prefills count."""
    engine, config = runtime.engine, runtime.engine.model.config
    head = _CountingHead(engine.model.head)
    engine.runner.sampler.head = head
    params = DecodeParams(
        mode=load.mode, max_new_tokens=NEW_TOKENS, block_length=load.block_length,
        threshold=load.threshold, ignore_eos=True,
    )  # fmt: skip
    chance = torch.Generator().manual_seed(1)
    sequences: list[Sequence] = []
    for number in range(concurrent):
        prompt = torch.randint(config.vocab_size, (CONTEXT,), generator=chance).tolist()
        sequences.append(engine.add(str(number), prompt, params))
    while any(not s.state.output for s in sequences) or engine.waiting:
        engine.step()
    head_size = config.vocab_size * config.hidden_size
    layer_flop = weight_bytes_per_forward(engine.model) - head_size * 2  # two bytes and two operations per weight
    results = []
    for _ in range(repeats):
        counters = engine.counters
        before = sum(len(s.state.output) for s in sequences), sum(counters.rows.values()), counters.step_tokens
        head_rows, model_s = head.rows, counters.model_s
        began = time.perf_counter()
        for _ in range(load.steps):
            engine.step()
        seconds = time.perf_counter() - began
        flop = (counters.step_tokens - before[2]) * layer_flop + (head.rows - head_rows) * head_size * 2
        tokens = sum(len(s.state.output) for s in sequences) - before[0]
        forwards = sum(counters.rows.values()) - before[1]
        gap = 1 - (counters.model_s - model_s) / seconds
        results.append(Throughput(tokens / seconds, forwards / seconds, flop / seconds, gap))
    if len(engine.running) < concurrent:
        raise RuntimeError(f"{load}: a request ended while it was measured")
    for sequence in sequences:
        engine.cancel(sequence)
    engine.step()
    return Throughput(*(median(getattr(r, name) for r in results) for name in Throughput.__slots__))


def compare_loads(runtime: Runtime, reference: dict[int, float], machine: Machine, repeats: int) -> None:
    """Prints one line per mode and number of requests.

    The rival runs requests one at a time, with as many tokens per forward as the mode's block. `compare_steps` measures
    its step, with the logits of every row. Its host work between steps is not counted.
    """
    print(
        f"\nmatmul rate {machine.flop_per_s / 1e9:.0f} GFLOP/s (F.linear, bfloat16, 1024 x 4096 by 4096 x 4096)",
        end="; ",
    )
    print(f"through the engine's product {machine.own_flop_per_s / 1e9:.0f}")
    print(
        "| mode | block | concurrent | tokens/s | tokens a forward | forwards/s | transformers one at a time | ", end=""
    )
    print("trimode is | GFLOP/s | of matmul rate | host gap |\n|---|---|---|---|---|---|---|---|---|---|---|")
    for load in LOADS:
        for concurrent in CONCURRENT:
            got = measure_load(runtime, load, concurrent, repeats)
            rival_rate = 1 / reference[load.block_length]
            print(
                f"| {load.mode} | {load.block_length} | {concurrent} | {got.tokens_per_s:.1f} "
                f"| {got.tokens_per_s / got.forwards_per_s:.2f} | {got.forwards_per_s:.1f} | {rival_rate:.1f} "
                f"| {got.forwards_per_s / rival_rate:.1f}x | {got.flop_per_s / 1e9:.0f} "
                f"| {got.flop_per_s / machine.flop_per_s:.0%} | {got.host_gap:.1%} |",
                flush=True,
            )


def memory_mib(key: str) -> float:
    """Returns a memory counter of this process in MiB: `RssAnon` is current, `VmHWM` the peak with mapped files."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024


def compare(shape: dict[str, Any], cache_gib: float, repeats: int, folder: Path) -> None:
    """Writes the checkpoint, starts the rivals and prints all tables of the random-weight model."""
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
        runtime = Runtime(
            WorkerSettings(model=str(folder), device="cpu", max_num_seqs=max(CONCURRENT), kv_cache_gb=cache_gib)
        )
        model = runtime.engine.model
        reference = compare_steps(runtime, rivals, machine, repeats)
    compare_loads(runtime, reference, machine, repeats)
    budget = model.num_weight_bytes / 2**20 + cache_gib * 1024
    grown = memory_mib("RssAnon") - before
    print(
        f"\nmemory: {grown:.0f} MiB more than before loading; weights and cache are {budget:.0f}: {grown / budget:.2f}x"
    )


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="measurements per number; medians are shown (default 5)")
    parser.add_argument("--tiny", action="store_true", help="a tiny model: it runs, but its numbers mean nothing")
    args = parser.parse_args()
    print(f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, load average {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as folder:
        if args.tiny:
            compare(TINY_SHAPE, 0.05, args.repeats, Path(folder))
        else:
            compare(BENCH_SHAPE, 1.0, args.repeats, Path(folder))
    compare_demo(requests=4 if args.tiny else 64)


if __name__ == "__main__":
    main()
