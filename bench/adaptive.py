"""The mode auto beside ar and linear_spec of every fixed width, in one run: tokens per second by number of requests.

The demo model decides for itself how many drafts are right. Random weights of a larger shape get scripted fates:
whether a draft is right is a function of the request and its place, so every setting meets the same text.
Run: `python -m trimode.bench.adaptive [--only cost demo shape] [--streams 1 2 4] [--tokens N] [--tiny]`.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from trimode.bench.closed_loop import FATES, SETTINGS, Prompts, measure_cell, texts
from trimode.bench.random_checkpoint import BENCH_SHAPE, TINY_SHAPE, write_checkpoint
from trimode.core.command import run_command
from trimode.core.processes import spare_collector
from trimode.core.project import PROJECT_DIR
from trimode.core.protocol import WorkerSettings
from trimode.pipeline.benchmarks import load_benchmark
from trimode.pipeline.data.load import load_rows
from trimode.pipeline.data.prompts import chat_messages
from trimode.workers.engine.engine import Engine
from trimode.workers.engine.step_times import StepTimes
from trimode.workers.engine.widths import Widths
from trimode.workers.runtime import Runtime

STREAMS = (1, 2, 4, 8, 16, 32, 64)


def compare(
    engine: Engine, title: str, all_streams: Sequence[int], prompts: Callable[[], Prompts], wanted: int,
    fates: Sequence[float] = (), *, rounds: int = 1,
) -> None:  # fmt: skip
    """Prints a table: one line per number of requests, one column per setting; see `measure_cell`."""
    print(f"\n### {title}\n\n| requests | ", end="")
    print(*(mode if mode != "linear_spec" else f"spec {block}" for mode, block in SETTINGS), sep=" | ", end=" |")
    print(" auto / best fixed | auto / ar | cycles of auto by width |\n|" + "---|" * (len(SETTINGS) + 4))
    for streams in all_streams:
        cell = measure_cell(engine, streams, prompts, round(wanted * streams**0.5), fates, rounds=rounds)
        print(cell.line(streams), flush=True)
    times = engine.planner.widths.times
    print("\nbelieved ms of a step by rows: ", end="")
    print(", ".join(f"{rows}: {times.at(rows):.2f}" for rows in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)))


def demo(all_streams: Sequence[int], wanted: int, rounds: int, loads: Sequence[str]) -> None:
    """Compares on the demo model: problems like those of its training, and every second one harder than those."""
    assets = PROJECT_DIR / "assets"
    settings = WorkerSettings(
        model=str(assets / "demo_model"), device="cpu", dtype="float32", max_num_seqs=max(all_streams), kv_cache_gb=1.0
    )
    runtime = Runtime(settings)
    spare_collector()  # as a worker does

    def prompts_of(name: str) -> list[Sequence[int]]:
        benchmark = load_benchmark(name)
        asked = [{"mode": "ar", "messages": chat_messages(benchmark, row)} for row in load_rows(benchmark, None)]
        return [runtime.prepare(one).prompt_ids for one in asked]

    easy, hard = prompts_of("demo-math"), prompts_of("demo-long")
    mixed = [prompt for pair in zip(easy, hard, strict=True) for prompt in pair]
    for name, chosen in {"easy": easy, "mixed": mixed}.items():
        if name in loads:
            title = f"demo model, {name}: demo-math{' and demo-long in turn' if name == 'mixed' else ''}"
            compare(runtime.engine, title, all_streams, lambda: itertools.cycle(chosen), wanted, rounds=rounds)  # noqa: B023 -- called at once


def shape(
    all_streams: Sequence[int], wanted: int, context: int, rounds: int, fates: Sequence[str], *, tiny: bool
) -> None:
    """Compares on random weights with scripted fates."""
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(Path(folder), TINY_SHAPE if tiny else BENCH_SHAPE)
        pages_gb = 1.0 if tiny else 4.0
        settings = WorkerSettings(model=folder, device="cpu", max_num_seqs=max(all_streams), kv_cache_gb=pages_gb)
        engine = Runtime(settings).engine
    spare_collector()
    asked = texts(engine.model.config.vocab_size, max(all_streams), context)
    for name in fates:
        means = FATES[name]
        title = f"random weights, {context} tokens of context, {name} ({', '.join(map(str, means))} tokens per verify)"
        compare(engine, title, all_streams, lambda: itertools.cycle(asked), wanted, means, rounds=rounds)


def cost(num_requests: int = 64, steps: int = 3000) -> None:
    """Prints what the decisions of a step cost: while all requests run steps of ar, and while all run cycles."""
    print()
    for title, table in {"steps of ar": {1: 1.0, 4096: 4096.0}, "cycles": {1: 10.0, 4096: 11.0}}.items():
        widths, chance = Widths(StepTimes(table)), random.Random(0)  # noqa: S311 -- the same numbers again
        choosers, ends = [widths.new_chooser(32) for _ in range(num_requests)], [0] * num_requests
        spent, cycles = 0.0, 0
        for step in range(steps):
            began = time.process_time()
            widths.passed(num_requests, num_requests, 1)
            widths.plan(choosers)
            for number, chooser in enumerate(choosers):
                if ends[number] > step:  # it drafts
                    continue
                if chooser.running:
                    emitted = min(chooser.running, 1 + int(chance.expovariate(0.1)))
                    chooser.took(chooser.running, emitted - 1, emitted)
                elif chooser.choose(32) == 1:
                    chooser.took(1, 0, 1)
                else:
                    cycles += 1
                    ends[number] = step + 1
            spent += time.process_time() - began
        print(
            f"decisions: {1e6 * spent / steps:.0f} us of processor time per step of {num_requests} requests that run "
            f"{title} ({cycles / steps:.1f} drafts per step)"
        )


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m trimode.bench.adaptive", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=("cost", "demo", "shape"), default=["cost", "demo", "shape"])
    parser.add_argument("--streams", nargs="+", type=int, default=list(STREAMS))
    parser.add_argument(
        "--tokens", type=int, default=1000, help="tokens of a measurement with one request; with more, times their root"
    )
    parser.add_argument("--context", type=int, default=128, help="tokens of a prompt with random weights")
    parser.add_argument("--rounds", type=int, default=9, help="rounds of every setting; medians are shown (default 9)")
    parser.add_argument(
        "--loads", nargs="+", choices=("easy", "mixed"), default=["easy", "mixed"], help="of the demo model"
    )
    parser.add_argument("--fates", nargs="+", choices=list(FATES), default=list(FATES), help="of random weights")
    parser.add_argument("--tiny", action="store_true", help="a tiny shape: shows that it runs")
    arguments = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, load {os.getloadavg()[0]:.1f} before")
    if "cost" in arguments.only:
        cost()
    if "demo" in arguments.only:
        demo(arguments.streams, arguments.tokens, arguments.rounds, arguments.loads)
    if "shape" in arguments.only:
        streams, tokens, context = arguments.streams, arguments.tokens, arguments.context
        shape(streams, tokens, context, arguments.rounds, arguments.fates, tiny=arguments.tiny)
    print(f"\nload {os.getloadavg()[0]:.1f} after")


if __name__ == "__main__":
    run_command(main)
