"""How often the 95 % intervals of reports and comparisons hold the truth, and how often a gate passes wrongly.

Problems and seeds are drawn from populations whose true value is known, and the functions of pipeline/analysis compute
the intervals. A population gives each problem a probability of being solved, which the seeds of the problem share.
Run: `python -m trimode.bench.coverage [--samples N] [--problems N ...] [--seeds N ...]`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from trimode.core.command import run_command
from trimode.pipeline.analysis.statistics import (
    Floats,
    Interval,
    difference_bounds,
    mean_interval,
    ratio,
    ratio_interval,
    score_bounds,
)

DRAWS_SEED = 1998
PROBLEMS = (20, 30, 100, 200)
SEEDS = (1, 2, 4, 8)
CLOSE = 0.948
"""A coverage below this is measured again, with ten times as many samples."""
AT_ONCE = 2000
"""Samples computed together: small arrays stay in the cache."""
ROUNDING = 1e-12


class Population(Protocol):
    """Problems whose true value is known."""

    @property
    def truth(self) -> float:
        """Mean over all problems, of which a run sees a sample."""

    def draw(self, rng: np.random.Generator, shape: tuple[int, int], seeds: int) -> Floats:
        """Returns the mean over seeds for every problem; `shape` is (samples, problems)."""


def solved(rng: np.random.Generator, probabilities: Floats, seeds: int) -> Floats:
    """Returns the share of seeds that solve each problem."""
    return np.asarray(rng.binomial(seeds, probabilities) / seeds)


def probabilities(rng: np.random.Generator, shape: tuple[int, int], mean: float, correlation: float) -> Floats:
    """Returns beta-distributed probabilities, so that two seeds of a problem have this correlation."""
    if correlation == 0:
        return np.full(shape, mean)
    if correlation == 1:
        return (rng.random(shape) < mean).astype(np.float64)
    scale = (1 - correlation) / correlation
    return rng.beta(mean * scale, (1 - mean) * scale, shape)


@dataclass(frozen=True)
class Accuracy:
    """One run."""

    truth: float
    correlation: float

    def draw(self, rng: np.random.Generator, shape: tuple[int, int], seeds: int) -> Floats:
        """Scores in [0, 1]."""
        return solved(rng, probabilities(rng, shape, self.truth, self.correlation), seeds)


@dataclass(frozen=True)
class TwoKinds:
    """One run on problems of two kinds, the rare one of which may be missing from a sample."""

    common: float
    rare: float
    share: float

    @property
    def truth(self) -> float:
        """Mean probability."""
        return self.common + self.share * (self.rare - self.common)

    def draw(self, rng: np.random.Generator, shape: tuple[int, int], seeds: int) -> Floats:
        """Scores in [0, 1]."""
        return solved(rng, np.where(rng.random(shape) < self.share, self.rare, self.common), seeds)


@dataclass(frozen=True)
class Models:
    """Two runs that draw their answers independently; equal models share the probability of each problem."""

    a: float
    b: float
    correlation: float

    @property
    def truth(self) -> float:
        """A minus B."""
        return self.a - self.b

    def draw(self, rng: np.random.Generator, shape: tuple[int, int], seeds: int) -> Floats:
        """Differences in [-1, 1]."""
        a = probabilities(rng, shape, self.a, self.correlation)
        b = a if self.a == self.b else probabilities(rng, shape, self.b, self.correlation)
        return solved(rng, a, seeds) - solved(rng, b, seeds)


@dataclass(frozen=True)
class Flips:
    """Two runs with the same answers but for rare flips, of single answers or of a problem in all of its seeds."""

    rate: float
    won: float
    """Share of flips that A wins; B wins the rest."""
    whole: bool

    @property
    def truth(self) -> float:
        """A minus B."""
        return self.rate * (2 * self.won - 1)

    def draw(self, rng: np.random.Generator, shape: tuple[int, int], seeds: int) -> Floats:
        """Differences in [-1, 1]."""
        trials = 1 if self.whole else seeds
        counts = rng.multinomial(trials, (self.rate * self.won, self.rate * (1 - self.won), 1 - self.rate), shape)
        return np.asarray((counts[..., 0] - counts[..., 1]) / trials)


CORRELATIONS = (0.0, 0.1, 0.3, 0.6, 1.0)
ACCURACIES: tuple[Population, ...] = (
    *(Accuracy(p, c) for p in (0.01, 0.02, 0.05, 0.1, 0.3, 0.5, 0.7, 0.9, 0.95, 0.98, 0.99) for c in CORRELATIONS),
    *(TwoKinds(0.99, 0.0, share) for share in (0.02, 0.1)),
    *(TwoKinds(0.5, 0.0, 0.05), TwoKinds(0.0, 0.3, 0.05), TwoKinds(0.9, 0.1, 0.2)),
)
EQUAL: tuple[Population, ...] = (
    *(Models(p, p, c) for p in (0.01, 0.05, 0.2, 0.5, 0.8, 0.95, 0.99) for c in CORRELATIONS),
    *(Flips(rate, 0.5, whole) for rate in (0.002, 0.01, 0.05, 0.2) for whole in (False, True)),
)
"""Pairs of equally good models."""
UNEQUAL: tuple[Population, ...] = (
    *(Flips(rate, won, whole) for rate in (0.002, 0.01, 0.05) for won in (0.0, 0.25) for whole in (False, True)),
    *(Models(0.95, b, c) for b in (0.9, 0.65, 0.35) for c in CORRELATIONS),
)


@dataclass(frozen=True)
class Cover:
    """What was found for one population."""

    population: Population
    covered: float
    """Share of samples whose interval holds the truth."""
    passed: float
    """Share of samples whose interval lies at or above the truth: a gate whose margin is the truth passes wrongly."""
    width: float
    """Mean width of the interval."""
    ideal: float
    """2 x 1.96 standard deviations of the estimate: the width that one could have if they were known."""


Bounds = Callable[[Floats], tuple[Floats, Floats]]


def accuracy_bounds(scores: Floats) -> tuple[Floats, Floats]:
    """Bounds of `score_interval` for scores of [samples, problems]."""
    return score_bounds(scores[..., None], np.ones_like(scores)[..., None])


def measure(population: Population, bounds: Bounds, samples: int, problems: int, seeds: int) -> Cover:
    """Coverage and width over seeded samples; over ten times as many if the coverage is close to the limit."""
    rng = np.random.default_rng((DRAWS_SEED, problems, seeds))
    found = _measure(population, bounds, rng, (samples, problems), seeds)
    return found if found.covered >= CLOSE else _measure(population, bounds, rng, (10 * samples, problems), seeds)


def _measure(
    population: Population, bounds: Bounds, rng: np.random.Generator, shape: tuple[int, int], seeds: int
) -> Cover:
    parts = []
    for first in range(0, shape[0], AT_ONCE):
        drawn = population.draw(rng, (min(AT_ONCE, shape[0] - first), shape[1]), seeds)
        parts.append((*bounds(drawn), drawn.mean(axis=1)))
    low, high, mean = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    truth = population.truth
    covered = (low <= truth + ROUNDING) & (truth <= high + ROUNDING)
    passed = float((low >= truth - ROUNDING).mean())
    return Cover(population, float(covered.mean()), passed, float((high - low).mean()), 3.92 * float(mean.std()))


def table(
    title: str, bounds: Bounds, groups: tuple[Sequence[Population], Sequence[Population]], options: argparse.Namespace
) -> None:
    """Prints one line per number of problems and seeds. Of the second group only pairs of equal models are made."""
    print(f"\n{title}\n")
    gate = " largest false PASS, equal | largest false PASS, all |" if groups[1] else ""
    print("| problems | seeds | smallest coverage | mean coverage | mean width | of ideal |" + gate + " smallest at |")
    print("|--:" * (8 if groups[1] else 6) + "|:--|")
    for problems in options.problems:
        for seeds in options.seeds:
            found = [measure(p, bounds, options.samples, problems, seeds) for p in (*groups[0], *groups[1])]
            worst = min(found, key=lambda cover: cover.covered)
            width = float(np.mean([cover.width for cover in found]))
            ideal = float(np.mean([cover.ideal for cover in found]))
            line = f"| {problems} | {seeds} | {worst.covered:.2%} | {np.mean([c.covered for c in found]):.2%} "
            line += f"| {100 * width:.2f} | {width / ideal:.2f} |"
            if groups[1]:
                line += f" {max(c.passed for c in found[len(groups[0]) :]):.2%} | {max(c.passed for c in found):.2%} |"
            print(f"{line} `{worst.population}` |", flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Command line of the simulation."""
    parser = argparse.ArgumentParser(prog="python -m trimode.bench.coverage", description=__doc__)
    parser.add_argument("--samples", type=int, default=4000, help="per population, problems and seeds (default 4000)")
    parser.add_argument("--problems", type=int, nargs="+", default=PROBLEMS, help="default: 20 30 100 200")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="default: 1 2 4 8")
    options = parser.parse_args(argv)
    table("Accuracy of one run, widths in points", accuracy_bounds, (ACCURACIES, ()), options)
    table("Difference of two runs, widths in points", difference_bounds, (UNEQUAL, EQUAL), options)
    means(options)
    ratios(options)


def means(options: argparse.Namespace) -> None:
    """Prints the coverage of a mean over four benchmarks of different sizes and accuracies."""
    print("\nMean accuracy of four benchmarks, widths in points\n")
    print("| problems | seeds | correlation | coverage | mean width |\n|--:|--:|--:|--:|--:|")
    for problems in options.problems:
        for seeds in options.seeds:
            for correlation in (0.0, 0.3, 1.0):
                rng = np.random.default_rng((DRAWS_SEED, problems, seeds))
                parts = [Accuracy(p, correlation) for p in (0.3, 0.8, 0.95, 0.99)]
                sizes = (problems, 2 * problems, problems, 4 * problems)
                scores = [p.draw(rng, (options.samples, n), seeds) for p, n in zip(parts, sizes, strict=True)]
                bounds = [accuracy_bounds(drawn) for drawn in scores]
                found = [
                    mean_interval(
                        [float(drawn[i].mean()) for drawn in scores],
                        [Interval(float(low[i]), float(high[i])) for low, high in bounds],
                    )
                    for i in range(options.samples)
                ]
                truth = float(np.mean([p.truth for p in parts]))
                line = f"| {problems} | {seeds} | {correlation} | {_share(found, truth):.2%} |"
                print(f"{line} {100 * np.mean([f.high - f.low for f in found]):.2f} |", flush=True)


def ratios(options: argparse.Namespace) -> None:
    """Prints the coverage of a TPF, a ratio of sums over answers of very different lengths."""
    print("\nTPF: answers of 100 tokens (median), their logarithm with standard deviation 0.8\n")
    print("| problems | spread of the TPF of single answers | coverage | mean width / TPF |\n|--:|--:|--:|--:|")
    for problems in options.problems:
        for spread in (0.1, 0.3, 0.6):
            rng = np.random.default_rng((DRAWS_SEED, problems))

            def draw(count: int, rng: np.random.Generator = rng, spread: float = spread) -> tuple[Floats, Floats]:
                tokens = np.asarray(np.exp(rng.normal(np.log(100), 0.8, count)))
                return tokens, tokens / np.exp(rng.normal(np.log(4), spread, count))

            truth = ratio(*draw(2_000_000))
            found = [f for _ in range(options.samples) if (f := ratio_interval(*draw(problems))) is not None]
            width = np.mean([f.high - f.low for f in found]) / truth
            print(f"| {problems} | {spread} | {_share(found, truth):.2%} | {width:.3f} |", flush=True)


def _share(intervals: Sequence[Interval], truth: float) -> float:
    """Returns the share of intervals that hold the truth."""
    return float(np.mean([low <= truth <= high for low, high in intervals]))


if __name__ == "__main__":
    run_command(main)
