"""The mode auto beside ar and linear_spec of every fixed width, in one run: tokens per second by number of requests.

The demo model decides for itself how many drafts are right. Random weights of a larger shape get scripted fates:
whether a draft is right is a function of the request and its place, so every setting meets the same text.
Run: `python -m trimode.bench.adaptive [--only cost demo shape] [--streams 1 2 4] [--tokens N] [--tiny]`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from trimode.bench.gpu.scripted import Script, scripted
from trimode.bench.random_checkpoint import BENCH_SHAPE, TINY_SHAPE, write_checkpoint
from trimode.core.project import PROJECT_DIR
from trimode.core.protocol import DecodeParams, WorkerSettings
from trimode.workers.decode.chunk import Chunk, Commit, Sampled, Verify
from trimode.workers.engine.engine import Engine
from trimode.workers.engine.widths import Chooser, Widths
from trimode.workers.runtime import Runtime
from trimode.workers.sampling.randomness import uniform

SETTINGS = (("ar", 1), *(("linear_spec", width) for width in (4, 8, 16, 32)), ("auto", 32))
STREAMS = (1, 2, 4, 8, 16, 32, 64)
LENGTH = 160
"""Tokens of an answer."""
FATES = {"coding": 8.9, "qa": 4.5, "never": 1.0}
"""Mean tokens per verify of a block of 32: two published categories, and drafts that always fail."""
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
) -> float:
    """Returns the rate of a closed loop: whenever an answer is whole, the next request comes.

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
    live = [engine.add(str(next(numbers)), list(next(prompts)), params) for _ in range(streams)]
    while True:
        for sequence in engine.step():
            if sequence.error is not None:
                raise sequence.error
            done += len(sequence.state.output)
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
    return rate


def compare(
    engine: Engine, title: str, all_streams: Sequence[int], prompts: Callable[[], Prompts], wanted: int,
    fates: Sequence[float] = (), *, rounds: int = 1,
) -> None:  # fmt: skip
    """Prints a table: one line per number of requests, one column per setting. Medians of all rounds.

    The settings take turns, and a ratio is one of the rates of the same round.
    """
    print(f"\n### {title}\n\n| requests | ", end="")
    print(*(mode if mode != "linear_spec" else f"spec {block}" for mode, block in SETTINGS), sep=" | ", end=" |")
    print(" auto / best fixed | auto / ar | widths of auto |\n|" + "---|" * (len(SETTINGS) + 4))
    for streams in all_streams:
        rates: dict[tuple[str, int], list[float]] = {setting: [] for setting in SETTINGS}
        widths: Counter[int] = Counter()
        for number in range(rounds):
            for mode, block in SETTINGS if number % 2 == 0 else SETTINGS[::-1]:
                inside: AbstractContextManager[None] = scripted(engine, Fates(fates)) if fates else nullcontext()
                with inside, counted(engine, widths):
                    rate = tokens_per_second(
                        engine, mode, block, streams, prompts(), wanted * max(1, streams // 4), whole=bool(fates)
                    )
                rates[mode, block].append(rate)
        medians = {setting: statistics.median(found) for setting, found in rates.items()}
        *fixed, last = SETTINGS
        best = max(fixed, key=lambda setting: medians[setting])
        chosen = ", ".join(f"{width}: {count}" for width, count in sorted(widths.items()))
        print(f"| {streams} | " + " | ".join(f"{rate:.0f}" for rate in medians.values()), end="")
        for rival in (best, SETTINGS[0]):
            ratio = statistics.median(auto / one for auto, one in zip(rates[last], rates[rival], strict=True))
            print(f" | {ratio:.2f}", end="")
        print(f" | {chosen} |", flush=True)


class counted:  # noqa: N801 -- a context manager, named as a function
    """Inside the block the widths that requests of auto choose are counted."""

    def __init__(self, engine: Engine, widths: Counter[int]) -> None:
        self._planner, self._widths = engine.planner, widths

    def __enter__(self) -> None:
        plain, widths = self._planner.new_chooser, self._widths

        class Counting(Chooser):
            __slots__ = ()

            def choose(self, most: int) -> int:
                width = super().choose(most)
                widths[width] += 1
                return width

        def new_chooser(most: int) -> Chooser:
            made = plain(most)
            assert isinstance(made, Chooser)
            return Counting(made.policy, made.menu, interval=made.interval)

        self._planner.new_chooser = new_chooser  # type: ignore[method-assign]

    def __exit__(self, *_: object) -> None:
        del self._planner.new_chooser


def demo(all_streams: Sequence[int], wanted: int, rounds: int) -> None:
    """Compares on the demo model: its own problems, and half of them replaced by texts that it has never seen."""
    assets = PROJECT_DIR / "assets"
    rows = (assets / "benchmarks" / "demo-math" / "test.jsonl").read_text(encoding="utf-8").splitlines()
    settings = WorkerSettings(
        model=str(assets / "demo_model"), device="cpu", dtype="float32", max_num_seqs=max(all_streams), kv_cache_gb=1.0
    )
    runtime = Runtime(settings)
    fields = [{"mode": "ar", "prompt": json.loads(row)["problem"]} for row in rows[:200]]
    easy = [runtime.prepare(one).prompt_ids for one in fields]
    chance = random.Random(0)  # noqa: S311 -- the same numbers again
    hard = [[chance.randrange(5, runtime.engine.model.config.vocab_size) for _ in prompt] for prompt in easy]
    mixed = [prompt for pair in zip(easy, hard, strict=True) for prompt in pair]
    engine = runtime.engine
    compare(engine, "demo model, its problems", all_streams, lambda: itertools.cycle(easy), wanted, rounds=rounds)
    title = "demo model, half random prompts"
    compare(engine, title, all_streams, lambda: itertools.cycle(mixed), wanted, rounds=rounds)


def shape(all_streams: Sequence[int], wanted: int, context: int, rounds: int, *, tiny: bool) -> None:
    """Compares on random weights with scripted fates."""
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(Path(folder), TINY_SHAPE if tiny else BENCH_SHAPE)
        pages_gb = 1.0 if tiny else 4.0
        settings = WorkerSettings(model=folder, device="cpu", max_num_seqs=max(all_streams), kv_cache_gb=pages_gb)
        engine = Runtime(settings).engine
    chance = random.Random(0)  # noqa: S311 -- the same numbers again
    vocab = engine.model.config.vocab_size
    texts = [[chance.randrange(5, vocab) for _ in range(context)] for _ in range(max(all_streams))]
    for name, means in {**{name: [mean] for name, mean in FATES.items()}, "mixed": [8.9, 1.0]}.items():
        title = f"random weights, {context} tokens of context, {name} ({', '.join(map(str, means))} tokens per verify)"
        compare(engine, title, all_streams, lambda: itertools.cycle(texts), wanted, means, rounds=rounds)


def cost(num_requests: int = 64, steps: int = 3000) -> None:
    """Prints what a decision costs."""
    widths, chance = Widths(), random.Random(0)  # noqa: S311 -- the same numbers again
    choosers = [widths.new_chooser(32) for _ in range(num_requests)]
    spent = 0.0
    for _ in range(steps):
        began = time.process_time()
        widths.plan(choosers)
        for chooser in choosers:
            width = chooser.choose(32)
            chooser.took(width, chance.randrange(width), 1)
        spent += time.process_time() - began
    print(f"\ndecision: {1e6 * spent / steps:.0f} us per step of {num_requests} requests that all end a cycle in it")
    began = time.process_time()
    for _ in range(steps):
        widths.plan(choosers)
    print(f"of this the plan: {1e6 * (time.process_time() - began) / steps:.0f} us")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="trimode.bench.adaptive", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=("cost", "demo", "shape"), default=["cost", "demo", "shape"])
    parser.add_argument("--streams", nargs="+", type=int, default=list(STREAMS))
    parser.add_argument("--tokens", type=int, default=800, help="tokens of a measurement per four requests")
    parser.add_argument("--context", type=int, default=128, help="tokens of a prompt with random weights")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of every setting; medians are shown (default 3)")
    parser.add_argument("--tiny", action="store_true", help="a tiny shape: shows that it runs")
    arguments = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, load {os.getloadavg()[0]:.1f} before")
    if "cost" in arguments.only:
        cost()
    if "demo" in arguments.only:
        demo(arguments.streams, arguments.tokens, arguments.rounds)
    if "shape" in arguments.only:
        shape(arguments.streams, arguments.tokens, arguments.context, arguments.rounds, tiny=arguments.tiny)
    print(f"\nload {os.getloadavg()[0]:.1f} after")


if __name__ == "__main__":
    main()
