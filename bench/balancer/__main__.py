"""What the balancer adds to its workers, beside the same workers alone, in one run.

Run: `python -m trimode.bench.balancer [--only scripted|demo] [--workers 1,2,4] [--concurrent 1,8,64] [--rounds N]`.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import os
import statistics
import subprocess
from collections.abc import Sequence
from pathlib import Path

from trimode.bench.balancer.load import Load, ask_server, percentile, run_callers
from trimode.bench.balancer.processes import Setup, balancer_server, cpu_s, direct_workers, measure_direct
from trimode.core.command import run_command

DEMO = Path(__file__).resolve().parents[2] / "assets" / "demo_model"
QUESTION = (
    "Solve this problem.\nMax has 5 boxes with 6 stickers each and 2 more stickers. How many stickers does Max have?"
)
MESSAGES = [{"role": "user", "content": QUESTION}]
SCRIPTED_TOKENS, DEMO_TOKENS = 64, 48
HEAD = (
    "| workers | concurrent | stream | direct p50 / p99 ms | balancer p50 / p99 ms | added p50 / p99 ms "
    "| direct tok/s | balancer tok/s | lost | first token added p50 ms "
    "| gap p50 / p99, steps | direct, balancer CPU ms per request |"
)


def setups(step_ms: float) -> dict[str, Setup]:
    """Returns what is measured, by name."""
    decoding = {"mode": "linear_spec", "ignore_eos": True}
    scripted = Setup(
        name=f"scripted workers, {step_ms:g} ms per step, {SCRIPTED_TOKENS} tokens per answer",
        worker_class="trimode.bench.balancer.scripted:ScriptedWorker",
        model="scripted",
        max_num_seqs=64,
        num_threads=1,
        fields={"messages": MESSAGES, "max_new_tokens": SCRIPTED_TOKENS},
        body={"messages": MESSAGES, "max_tokens": SCRIPTED_TOKENS},
        tokens=SCRIPTED_TOKENS,
        step_ms=step_ms,
    )
    demo = Setup(
        name=f"demo model, linear_spec, {DEMO_TOKENS} tokens per answer",
        worker_class="trimode.workers.worker:Worker",
        model=str(DEMO),
        max_num_seqs=32,
        num_threads=1,
        fields={"messages": MESSAGES, "max_new_tokens": DEMO_TOKENS, **decoding},
        body={"messages": MESSAGES, "max_tokens": DEMO_TOKENS, **decoding},
        tokens=DEMO_TOKENS,
        step_ms=None,
    )
    return {"scripted": scripted, "demo": demo}


def measure(setup: Setup, workers: Sequence[int], concurrent: Sequence[int], rounds: int, *, stream: bool) -> None:
    """Prints one line per number of workers and callers: the medians of the rounds, the rivals in turn."""
    for num_workers in workers:
        with direct_workers(setup, num_workers) as processes, balancer_server(setup, num_workers) as server:
            for callers in concurrent:
                requests = max(16, 4 * callers)
                pairs = [_pair(setup, processes, server, (callers, requests), stream=stream) for _ in range(rounds)]
                print(_line(setup, num_workers, callers, pairs, stream=stream), flush=True)


def _pair(
    setup: Setup,
    processes: Sequence[subprocess.Popen[str]],
    server: tuple[int, int],
    size: tuple[int, int],
    *,
    stream: bool,
) -> tuple[Load, Load]:
    direct = measure_direct(processes, *size, stream=stream)
    port, pid = server
    began = cpu_s([pid])
    found = asyncio.run(run_callers(ask_server(port, setup.body, setup.tokens, stream=stream), *size))
    return direct, dataclasses.replace(found, cpu_s=cpu_s([pid]) - began)


def _line(setup: Setup, num_workers: int, callers: int, pairs: Sequence[tuple[Load, Load]], *, stream: bool) -> str:
    def median(side: int, what: str, percent: int) -> float:
        return statistics.median(1e3 * percentile(getattr(pair[side].seen, what), percent) for pair in pairs)

    d50, d99, b50, b99 = (median(side, "latencies", percent) for side in (0, 1) for percent in (50, 99))
    direct, balancer = (statistics.median(pair[side].tokens_per_s for pair in pairs) for side in (0, 1))
    direct_ms, balancer_ms = (statistics.median(pair[side].cpu_ms for pair in pairs) for side in (0, 1))
    first, gaps = "", ""
    if stream:
        first = f"{median(1, 'first', 50) - median(0, 'first', 50):.1f}"
        step = setup.step_ms or median(0, "gaps", 50)
        gaps = f"{median(1, 'gaps', 50) / step:.1f} / {median(1, 'gaps', 99) / step:.1f}"
    return (
        f"| {num_workers} | {callers} | {'yes' if stream else 'no'} | {d50:.1f} / {d99:.1f} | {b50:.1f} / {b99:.1f} "
        f"| {b50 - d50:.1f} / {b99 - d99:.1f} | {direct:.0f} | {balancer:.0f} | {1 - balancer / direct:.1%} "
        f"| {first} | {gaps} | {direct_ms:.2f}, {balancer_ms:.2f} |"
    )


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(
        prog="python -m trimode.bench.balancer",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", choices=["scripted", "demo"], help="one of the two tables; both when absent")
    parser.add_argument("--workers", default="1,2,4", help="numbers of workers (default 1,2,4)")
    parser.add_argument("--concurrent", default="1,8,64", help="numbers of callers (default 1,8,64)")
    parser.add_argument("--rounds", type=int, default=3, help="measurements per line; medians are shown (default 3)")
    parser.add_argument("--step-ms", type=float, default=10.0, help="length of a scripted step (default 10)")
    args = parser.parse_args()
    workers, concurrent = ([int(part) for part in text.split(",")] for text in (args.workers, args.concurrent))
    print(f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}; the callers share them")
    for name, setup in setups(args.step_ms).items():
        if args.only not in (None, name):
            continue
        print(f"\n{setup.name}\n\n{HEAD}\n|{'---|' * 12}")
        for stream in (False, True):
            measure(setup, workers, concurrent, args.rounds, stream=stream)


if __name__ == "__main__":
    run_command(main)
