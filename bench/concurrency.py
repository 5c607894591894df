"""`python -m trimode.bench.concurrency`: how fast each mode is at each number of requests at a time.

The same problems of the bundled benchmarks are answered by one engine in every mode, greedily, with the prompts in the
prefix cache. The modes take turns, and the rival of each is `ar` in the same round.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trimode.bench.demo_engine import answer_all
from trimode.bench.quantization import BENCHMARKS, MODEL
from trimode.core.protocol import Row, WorkerSettings
from trimode.pipeline.benchmarks import load_benchmark
from trimode.pipeline.data.load import load_rows
from trimode.pipeline.data.prompts import chat_messages
from trimode.workers.runtime import Runtime

SETTINGS: Mapping[str, Row] = {
    "ar": {"mode": "ar"},
    "dlm 8": {"mode": "dlm", "block_length": 8, "threshold": 0.9},
    "dlm 32": {"mode": "dlm", "block_length": 32, "threshold": 0.9},
    "linear_spec 8": {"mode": "linear_spec", "block_length": 8, "threshold": 0.0},
    "linear_spec 32": {"mode": "linear_spec", "block_length": 32, "threshold": 0.0},
    "auto": {"mode": "auto", "block_length": 32, "threshold": 0.0},
}
"""Name -> request fields. The number is the block's length."""


@dataclass(frozen=True, slots=True)
class Rate:
    """One measurement."""

    tokens_per_s: float
    """Of all requests together."""
    tpf: float
    """Generated tokens per function evaluation."""


def measure(runtime: Runtime, fields: Row, prompts: Sequence[Row], together: int) -> Rate:
    """Answers all prompts with at most `together` running."""
    counters = runtime.engine.counters
    tokens, nfe = counters.tokens_generated, counters.nfe
    seconds = answer_all(runtime, fields, prompts, together)
    new = counters.tokens_generated - tokens
    return Rate(new / seconds, new / (counters.nfe - nfe))


def compare(runtime: Runtime, prompts: Sequence[Row], together: int, rounds: int) -> dict[str, tuple[Rate, float]]:
    """Returns per setting the median rate and the median ratio to `ar` of the same round."""
    found: dict[str, list[Rate]] = {name: [] for name in SETTINGS}
    for number in range(rounds):
        names = list(SETTINGS) if number % 2 == 0 else list(SETTINGS)[::-1]
        for name in names:
            found[name].append(measure(runtime, SETTINGS[name], prompts, together))
    medians = {}
    for name, rates in found.items():
        ratios = [one.tokens_per_s / ar.tokens_per_s for one, ar in zip(rates, found["ar"], strict=True)]
        speed = statistics.median(rate.tokens_per_s for rate in rates)
        medians[name] = Rate(speed, rates[0].tpf), statistics.median(ratios)
    return medians


def advice(fastest: Mapping[int, str]) -> str:
    """Returns one sentence that says which setting is the fastest at which load.

    Args:
        fastest: setting by number of requests at a time, in rising order.
    """
    parts: list[tuple[int, int, str]] = []
    for number, name in fastest.items():
        if parts and parts[-1][2] == name:
            parts[-1] = (parts[-1][0], number, name)
        else:
            parts.append((number, number, name))
    said = [f"{name} at {low if low == high else f'{low} to {high}'}" for low, high, name in parts]
    return f"The fastest by requests at a time: {', '.join(said)}."


def read_prompts(count: int) -> list[Row]:
    """Returns the first problems of the bundled benchmarks in turn, as request fields."""
    prompts: list[Row] = []
    each = -(-count // len(BENCHMARKS))
    for name in BENCHMARKS:
        benchmark = load_benchmark(name)
        rows = load_rows(benchmark, None)[:each]
        prompts += [{"messages": chat_messages(benchmark, row)} for row in rows]
    return [prompts[start + place * each] for start in range(each) for place in range(len(BENCHMARKS))][:count]


def main() -> None:
    """Prints a line per number of requests, and tokens per forward of each setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(MODEL), help="checkpoint folder (default: the demo model)")
    parser.add_argument("--concurrent", default="1,2,4,8,16,32,64", help="numbers of requests at a time")
    parser.add_argument("--requests", type=int, default=128, help="problems of each measurement (default 128)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds; medians are shown (default 3)")
    args = parser.parse_args()
    numbers = [int(number) for number in args.concurrent.split(",")]
    prompts = read_prompts(max(args.requests, *numbers))
    settings = WorkerSettings(model=args.model, device="cpu", max_num_seqs=max(numbers), kv_cache_gb=0.5)
    runtime = Runtime(settings)
    for fields in SETTINGS.values():  # compiles what it needs, and fills the prefix cache
        measure(runtime, fields, prompts, max(numbers))
    print(f"| requests at a time | {' | '.join(SETTINGS)} | fastest |")
    print("|---" * (len(SETTINGS) + 2) + "|")
    found: dict[str, tuple[Rate, float]] = {}
    every, lossless = dict[int, str](), dict[int, str]()
    for number in numbers:
        found = compare(runtime, prompts, number, args.rounds)
        cells = [f"{rate.tokens_per_s:.0f} ({ratio:.2f}x)" for rate, ratio in found.values()]
        every[number] = max(found, key=lambda name: found[name][1])
        same_text = [name for name in found if not name.startswith("dlm")]
        lossless[number] = max(same_text, key=lambda name: found[name][1])
        print(f"| {number} | {' | '.join(cells)} | {every[number]} |", flush=True)
    print(f"| tokens per forward | {' | '.join(f'{rate.tpf:.2f}' for rate, _ in found.values())} | |")
    print(f"\n{advice(every)}")
    print(f"With the text of ar: {advice(lossless)}")


if __name__ == "__main__":
    main()
