"""`python -m trimode.bench.concurrency`: how fast each mode is at each number of requests at a time.

The same problems of the bundled benchmarks are answered by one engine in every mode, greedily, with the prompts in the
prefix cache. The modes take turns, and the rival of each is `ar` in the same round. `--out` leaves a file that
the report draws as curves.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trimode.bench.demo_engine import MAX_NEW_TOKENS, answer_all
from trimode.bench.quantization import BENCHMARKS, MODEL, Judge
from trimode.core.command import run_command
from trimode.core.processes import spare_collector
from trimode.core.protocol import Row, WorkerSettings
from trimode.pipeline.analysis.loads import FILE_NAME, LoadSweep, Setting, advice
from trimode.pipeline.benchmarks import Benchmark, load_benchmark
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


@dataclass(frozen=True, slots=True)
class Problem:
    """One row of a benchmark."""

    benchmark: Benchmark
    number: int
    row: Row

    @property
    def prompt(self) -> Row:
        """The request fields that ask it."""
        return {"messages": chat_messages(self.benchmark, self.row)}


def read_problems(count: int) -> list[Problem]:
    """Returns the first problems of the bundled benchmarks in turn."""
    each = -(-count // len(BENCHMARKS))
    benchmarks = [load_benchmark(name) for name in BENCHMARKS]
    rows = [load_rows(benchmark, None)[:each] for benchmark in benchmarks]
    return [
        Problem(benchmark, number, mine[number])
        for number in range(each)
        for benchmark, mine in zip(benchmarks, rows, strict=True)
    ][:count]


def accuracy(runtime: Runtime, fields: Row, problems: Sequence[Problem], judge: Judge) -> float:
    """Answers all problems, as many at a time as the engine takes, and returns the percentage of right answers."""
    sequences = [
        runtime.submit(str(number), {**fields, **problem.prompt, "max_new_tokens": MAX_NEW_TOKENS})
        for number, problem in enumerate(problems)
    ]
    while runtime.engine.busy:
        runtime.engine.step()
    right = 0
    for problem, sequence in zip(problems, sequences, strict=True):
        if sequence.error is not None:
            raise sequence.error
        right += judge(problem.benchmark, problem.number, problem.row, runtime.generation(sequence).text or "")
    return 100 * right / len(problems)


def sweep_of(
    model: str, problems: int, right: Mapping[str, float], found: Mapping[int, Mapping[str, tuple[Rate, float]]]
) -> LoadSweep:
    """Returns what was measured as the report reads it: accuracy by setting; rate and ratio by load and setting."""
    settings = [
        Setting(
            name=name,
            mode=str(fields["mode"]),
            accuracy=right[name],
            tpf=next(iter(found.values()))[name][0].tpf,
            tokens_per_s={load: cells[name][0].tokens_per_s for load, cells in found.items()},
            against_ar={load: cells[name][1] for load, cells in found.items()},
        )
        for name, fields in SETTINGS.items()
    ]
    machine = f"{os.cpu_count()} cores of {platform.processor() or platform.machine()}"
    return LoadSweep(model=model, problems=problems, machine=machine, settings=settings)


def main() -> None:
    """Prints a line per number of requests, and tokens per forward and accuracy of each setting."""
    parser = argparse.ArgumentParser(
        prog="python -m trimode.bench.concurrency",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", default=str(MODEL), help="checkpoint folder (default: the demo model)")
    parser.add_argument("--concurrent", default="1,2,4,8,16,32,64", help="numbers of requests at a time")
    parser.add_argument("--requests", type=int, default=128, help="problems of each measurement (default 128)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds; medians are shown (default 3)")
    parser.add_argument("--out", type=Path, help=f"folder for {FILE_NAME}, which the report draws (default: none)")
    args = parser.parse_args()
    numbers = sorted(int(number) for number in args.concurrent.split(","))
    problems = read_problems(max(args.requests, *numbers))
    prompts = [problem.prompt for problem in problems]
    settings = WorkerSettings(model=args.model, device="cpu", max_num_seqs=max(numbers), kv_cache_gb=0.5)
    runtime, judge = Runtime(settings), Judge()
    spare_collector()  # as a worker does
    right: dict[str, float] = {}
    for name, fields in SETTINGS.items():  # this also compiles what it needs, and fills the prefix cache
        right[name] = accuracy(runtime, fields, problems, judge)
    print(f"| requests at a time | {' | '.join(SETTINGS)} | fastest |")
    print("|---" * (len(SETTINGS) + 2) + "|")
    found: dict[int, dict[str, tuple[Rate, float]]] = {}
    for number in numbers:
        rates = found[number] = compare(runtime, prompts, number, args.rounds)
        cells = [f"{rate.tokens_per_s:.0f} ({ratio:.2f}x)" for rate, ratio in rates.values()]
        best = sweep_of(args.model, len(problems), right, {number: rates}).fastest()[number]
        print(f"| {number} | {' | '.join(cells)} | {best} |", flush=True)
    sweep = sweep_of(args.model, len(problems), right, found)
    print(f"| tokens per forward | {' | '.join(f'{setting.tpf:.2f}' for setting in sweep.settings)} | |")
    print(f"| accuracy % | {' | '.join(f'{setting.accuracy:.1f}' for setting in sweep.settings)} | |")
    print(f"\n{advice(sweep.fastest())}")
    print(f"With the text of ar: {advice(sweep.fastest(text_of_ar=True))}")
    if args.out is not None:
        sweep.write(args.out)
        print(f"as curves: python -m trimode.pipeline.report {shlex.quote(str(args.out))}")


if __name__ == "__main__":
    run_command(main)
