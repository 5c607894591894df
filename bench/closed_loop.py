"""A closed loop of requests in ar, linear_spec of every fixed width and auto, in turn on the same texts: tokens/s.

Random weights agree with nothing, so their requests get scripted fates: whether a draft is right is a function of the
request and its place, and every setting meets the same text.
"""

from __future__ import annotations

import itertools
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from trimode.bench.gpu.scripted import Script, scripted
from trimode.core.protocol import DecodeParams
from trimode.workers.decode.chunk import Chunk, Commit, Sampled, Verify
from trimode.workers.engine.engine import Engine
from trimode.workers.engine.scheduler import Sequence as Request
from trimode.workers.sampling.randomness import uniform

SETTINGS = (("ar", 1), *(("linear_spec", width) for width in (4, 8, 16, 32)), ("auto", 32))
LENGTH = 128
"""Most tokens of an answer, if nothing else is said."""
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
    engine: Engine, params: DecodeParams, streams: int, prompts: Prompts, wanted: int
) -> tuple[float, Counter[int]]:
    """Returns the rate of a closed loop, and its cycles by width. Whenever an answer is whole, the next request comes.

    Args:
        engine: without requests; it is left so.
        params: of all requests.
        streams: requests at a time.
        prompts: of the requests, in order.
        wanted: tokens to measure, after a quarter of as many.
    """
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
    widths: Counter[int] = Counter()
    for sequence in (*ended, *live):
        widths.update(sequence.state.widths)
    for sequence in live:
        engine.cancel(sequence)
    while engine.busy:
        engine.step()
    return rate, widths


@dataclass(slots=True)
class Cell:
    """The measurements at one number of requests."""

    rates: dict[tuple[str, int], list[float]] = field(default_factory=lambda: {setting: [] for setting in SETTINGS})
    """One rate per round."""
    widths: Counter[int] = field(default_factory=Counter)
    """Cycles of auto by width."""

    @property
    def medians(self) -> Mapping[tuple[str, int], float]:
        """The rate of each setting."""
        return {setting: statistics.median(found) for setting, found in self.rates.items()}

    @property
    def best(self) -> tuple[str, int]:
        """The fixed setting with the highest rate."""
        medians = self.medians
        return max(SETTINGS[:-1], key=lambda setting: medians[setting])

    def ratios(self, rival: tuple[str, int]) -> list[float]:
        """Returns the rate of auto by that of another setting in each round, ascending."""
        return sorted(auto / one for auto, one in zip(self.rates[SETTINGS[-1]], self.rates[rival], strict=True))

    def line(self, streams: int) -> str:
        """Returns a line of the table. A ratio is the median over the rounds, with the least and the largest."""
        cells = [f"{rate:.0f}" for rate in self.medians.values()]
        for rival in (self.best, SETTINGS[0]):
            ratios = self.ratios(rival)
            cells.append(f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")
        return f"| {streams} | {' | '.join(cells)} | {shares(self.widths)} |"


def shares(widths: Mapping[int, int]) -> str:
    """Returns which share of the cycles was how wide; widths in between, at the end of answers, count as the next."""
    grouped: Counter[int] = Counter()
    for width, count in widths.items():
        grouped[next(known for known in (1, 4, 8, 16, 32) if width <= known)] += count
    total = sum(widths.values()) or 1
    return ", ".join(f"{width}: {100 * count / total:.0f} %" for width, count in sorted(grouped.items()))


def measure_cell(
    engine: Engine, streams: int, prompts: Callable[[], Prompts], tokens: int, fates: Sequence[float] = (), *,
    length: int = LENGTH, rounds: int = 1,
) -> Cell:  # fmt: skip
    """Returns the rates of all settings at one number of requests.

    In every round the settings take turns on the same prompts, and each round begins with another setting. A first
    round of auto is not counted: in it kernels are compiled, the prefix cache is filled, and the times of steps are
    corrected.

    Args:
        engine: without requests; it is left so.
        streams: requests at a time.
        prompts: gives the same prompts at every call.
        tokens: see `tokens_per_second`.
        fates: mean tokens per verify of requests in turn; empty = the model decides, also where an answer ends.
        length: most tokens of an answer, and all of them with fates.
        rounds: of every setting.
    """
    cell = Cell()
    for number in range(-1, rounds):
        first = number % len(SETTINGS)
        for mode, block in SETTINGS[-1:] if number < 0 else SETTINGS[first:] + SETTINGS[:first]:
            inside: AbstractContextManager[None] = scripted(engine, Fates(fates)) if fates else nullcontext()
            threshold = None if mode == "ar" else 0.0
            params = DecodeParams(
                mode=mode, max_new_tokens=length, block_length=block, threshold=threshold, ignore_eos=bool(fates)
            )
            with inside:
                rate, widths = tokens_per_second(engine, params, streams, prompts(), tokens)
            if number >= 0:
                cell.rates[mode, block].append(rate)
                cell.widths.update(widths)
    return cell


def texts(vocab: int, number: int, length: int) -> list[Sequence[int]]:
    """Returns prompts of random tokens, the same at every call."""
    return list(itertools.islice(new_texts(vocab, length, seed=0), number))


def new_texts(vocab: int, length: int, *, seed: int | None = None) -> Prompts:
    """Yields prompts of random tokens without end; without a seed others at every call."""
    chance = random.Random(seed)  # noqa: S311 -- no secrets
    while True:
        yield [chance.randrange(5, vocab) for _ in range(length)]
