"""The bundled demo model, small and bound by the host: 16 requests at once against one at a time on the same engine.

It has as many threads as in a worker: one. Run: `python -m trimode.bench.demo_engine [--dtype bfloat16]`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from trimode.bench.machine import print_load, print_machine
from trimode.core.command import run_command
from trimode.core.devices import cpu_threads
from trimode.core.processes import spare_collector
from trimode.core.protocol import Mode, Row, WorkerSettings
from trimode.workers.runtime import Runtime

ASSETS = Path(__file__).parents[1] / "assets"
CONCURRENT = 16
MAX_NEW_TOKENS = 128


def answer_all(runtime: Runtime, fields: Row, prompts: Sequence[Row], together: int) -> float:
    """Answers all prompts with at most `together` running. Returns the seconds that it took.

    Prompts of earlier runs are in the prefix cache. `fields` and each prompt are fields of a request.
    """
    runtime.engine.scheduler.max_num_seqs = together
    began = time.perf_counter()
    for number, prompt in enumerate(prompts):
        runtime.submit(str(number), {**fields, **prompt, "max_new_tokens": MAX_NEW_TOKENS})
    while runtime.engine.busy:
        runtime.engine.step()
    return time.perf_counter() - began


def compare_demo(requests: int, dtype: str = "float32") -> None:
    """Prints requests per second of the demo model in each mode, one at a time and 16 at once.

    Changes the number of threads of this process.
    """
    model = str(ASSETS / "demo_model")
    threads = cpu_threads(model, torch.get_num_threads())
    rows = (ASSETS / "benchmarks" / "demo-math" / "test.jsonl").read_text(encoding="utf-8").splitlines()[:requests]
    prompts: list[Row] = [{"messages": [{"role": "user", "content": json.loads(row)["problem"]}]} for row in rows]
    settings = WorkerSettings(
        model=model, device="cpu", dtype=dtype, max_num_seqs=CONCURRENT, kv_cache_gb=0.2, num_threads=threads
    )
    runtime = Runtime(settings)
    spare_collector()  # as a worker does
    named = f"demo model, {dtype}, {threads} thread{'s' if threads > 1 else ''}"
    print(f"\n| {named} | requests/s one at a time | requests/s {CONCURRENT} at once | ratio | host gap |")
    print("|---|---|---|---|---|")
    for mode in Mode:
        answer_all(runtime, {"mode": mode}, prompts, CONCURRENT)
        alone = answer_all(runtime, {"mode": mode}, prompts, 1)
        counters = runtime.engine.counters
        model_s = counters.model_s
        together = answer_all(runtime, {"mode": mode}, prompts, CONCURRENT)
        gap = 1 - (counters.model_s - model_s) / together
        print(
            f"| {mode} | {requests / alone:.1f} | {requests / together:.1f} | {alone / together:.2f}x | {gap:.0%} |",
            flush=True,
        )


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(
        prog="python -m trimode.bench.demo_engine", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="default float32")
    parser.add_argument("--requests", type=int, default=64, help="requests of each mode (default 64)")
    args = parser.parse_args()
    print_machine()
    compare_demo(args.requests, args.dtype)
    print_load("after")


if __name__ == "__main__":
    run_command(main)
