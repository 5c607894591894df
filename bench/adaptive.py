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
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from trimode.bench.gpu.scripted import Script, scripted
from trimode.bench.random_checkpoint import BENCH_SHAPE, TINY_SHAPE, write_checkpoint
from trimode.core.command import run_command
from trimode.core.processes import spare_collector
from trimode.core.project import PROJECT_DIR
from trimode.core.protocol import DecodeParams, WorkerSettings
from trimode.pipeline.benchmarks import load_benchmark
from trimode.pipeline.data.load import load_rows
from trimode.pipeline.data.prompts import chat_messages
from trimode.workers.decode.chunk import Chunk, Commit, Sampled, Verify
from trimode.workers.engine.engine import Engine
from trimode.workers.engine.scheduler import Sequence as Request
from trimode.workers.engine.step_times import StepTimes
from trimode.workers.engine.widths import Widths
from trimode.workers.runtime import Runtime
from trimode.workers.sampling.randomness import uniform

SETTINGS = (("ar", 1), *(("linear_spec", width) for width in (4, 8, 16, 32)), ("auto", 32))
STREAMS = (1, 2, 4, 8, 16, 32, 64)
LENGTH = 128
"""Most tokens of an answer; with random weights its length."""
FATES = {"coding": [8.9], "qa": [4.5], "never": [1.0], "mixed": [8.9, 1.0]}
"""Mean tokens per verify of a block of 32, of requests in turn: two published categories, and drafts that always fail.
"""
Prompts = Iterator[Sequence[int]]


class Fates(Script):
    """Drafts that are right with one chance at every place, by the request's number."""

    def __init__(self, means: Sequence[float]) -> None:
        super().__init__(1.0, 1.0)
        self._chances = [chance_of(mean) for mean in means]

    def rewrite(self, request_id: str, chunk: Chunk, sampled: Sampled) -> None:
        """Replaces the decision in the result of one chunk."""
        if isinstance(chunk.selection, Commit):
            sampled.committed = [True] * len(chunk.rows)
        elif isinstance(chunk.selection, Verify):
            number = int(request_id)
            chance = self._chances[number % len(self._chances)]
            places = range(chunk.position + 1, chunk.position + len(chunk.rows))
            right = itertools.takewhile(lambda place: uniform(number, place, "fate") < chance, places)
            sampled.accepted = 1 + len(list(right))


def chance_of(mean: float, width: int = 32) -> float:
    """Returns the chance of a draft with which a block of `width` emits `mean` tokens on average."""
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(middle**place for place in range(width)) < mean else (low, middle)
    return low


def tokens_per_second(
    engine: Engine, mode: str, block: int, streams: int, prompts: Prompts, wanted: int, *, whole: bool = True
) -> tuple[float, Counter[int]]:
    """Returns the rate of a closed loop, and its cycles by width. Whenever an answer is whole, the next request comes.

    Args:
        engine: without requests; it is left so.
        mode: of all requests.
        block: their block length.
        streams: requests at a time.
        prompts: of the requests, in order.
        wanted: tokens to measure, after a quarter of as many.
        whole: True if every answer has LENGTH tokens, False if it ends where the model ends it.
    """
    params = DecodeParams(
        mode=mode, max_new_tokens=LENGTH, block_length=block, threshold=None if mode == "ar" else 0.0, ignore_eos=whole
    )
    numbers = itertools.count()
    done, began, first = 0, 0.0, -1
    ended: list[Request] = []
    live = [engine.add(str(next(numbers)), list(next(prompts)), params) for _ in range(streams)]
    while True:
        for sequence in engine.step():
            if sequence.error is not None:
                raise sequence.error
            done += len(sequence.state.output)
            ended.append(sequence)
            live.remove(sequence)
            live.append(engine.add(str(next(numbers)), list(next(prompts)), params))
        now = done + sum(len(sequence.state.output) for sequence in live)
        if first < 0 and now >= wanted / 4:
            began, first = time.perf_counter(), now
        elif first >= 0 and now >= first + wanted:
            rate = (now - first) / (time.perf_counter() - began)
            break
    for sequence in live:
        engine.cancel(sequence)
    while engine.busy:
        engine.step()
    widths: Counter[int] = Counter()
    for sequence in ended:
        widths.update(sequence.state.widths)
    return rate, widths


@dataclass(slots=True)
class Cell:
    """The measurements at one number of requests."""

    rates: dict[tuple[str, int], list[float]] = field(default_factory=lambda: {setting: [] for setting in SETTINGS})
    """One rate per round."""
    widths: Counter[int] = field(default_factory=Counter)
    """Cycles of auto by width."""

    def line(self, streams: int) -> str:
        """Returns a line of the table. A ratio is the median over the rounds, with the least and the largest."""
        medians = {setting: statistics.median(found) for setting, found in self.rates.items()}
        *fixed, last = SETTINGS
        best = max(fixed, key=lambda setting: medians[setting])
        cells = [f"{rate:.0f}" for rate in medians.values()]
        for rival in (best, SETTINGS[0]):
            ratios = sorted(auto / one for auto, one in zip(self.rates[last], self.rates[rival], strict=True))
            cells.append(f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")
        return f"| {streams} | {' | '.join(cells)} | {shares(self.widths)} |"


def shares(widths: Mapping[int, int]) -> str:
    """Returns which share of the cycles was how wide; widths in between, at the end of answers, count as the next."""
    grouped: Counter[int] = Counter()
    for width, count in widths.items():
        grouped[next(known for known in (1, 4, 8, 16, 32) if width <= known)] += count
    total = sum(widths.values()) or 1
    return ", ".join(f"{width}: {100 * count / total:.0f} %" for width, count in sorted(grouped.items()))


def compare(
    engine: Engine, title: str, all_streams: Sequence[int], prompts: Callable[[], Prompts], wanted: int,
    fates: Sequence[float] = (), *, rounds: int = 1,
) -> None:  # fmt: skip
    """Prints a table: one line per number of requests, one column per setting.

    In every round the settings take turns on the same prompts, and each round begins with another setting. A first
    round of auto is not counted: in it kernels are compiled, the prefix cache is filled, and the times of steps are
    corrected.
    """
    print(f"\n### {title}\n\n| requests | ", end="")
    print(*(mode if mode != "linear_spec" else f"spec {block}" for mode, block in SETTINGS), sep=" | ", end=" |")
    print(" auto / best fixed | auto / ar | cycles of auto by width |\n|" + "---|" * (len(SETTINGS) + 4))
    for streams in all_streams:
        cell, tokens = Cell(), round(wanted * streams**0.5)
        for number in range(-1, rounds):
            first = number % len(SETTINGS)
            for mode, block in SETTINGS[-1:] if number < 0 else SETTINGS[first:] + SETTINGS[:first]:
                inside: AbstractContextManager[None] = scripted(engine, Fates(fates)) if fates else nullcontext()
                with inside:
                    rate, widths = tokens_per_second(engine, mode, block, streams, prompts(), tokens, whole=bool(fates))
                if number >= 0:
                    cell.rates[mode, block].append(rate)
                    cell.widths.update(widths)
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
    chance = random.Random(0)  # noqa: S311 -- the same numbers again
    vocab = engine.model.config.vocab_size
    texts = [[chance.randrange(5, vocab) for _ in range(context)] for _ in range(max(all_streams))]
    for name in fates:
        means = FATES[name]
        title = f"random weights, {context} tokens of context, {name} ({', '.join(map(str, means))} tokens per verify)"
        compare(engine, title, all_streams, lambda: itertools.cycle(texts), wanted, means, rounds=rounds)


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
    parser = argparse.ArgumentParser(prog="trimode.bench.adaptive", description=__doc__)
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
