"""Intervals, paired tests and detectable differences for scores that come per problem.

Every function takes plain numbers or arrays and returns fractions, not percent. Every random draw is seeded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

Z95 = 1.959963984540054
"""Two-sided 95 % point of the standard normal distribution."""

Z_POWER80 = 0.8416212335729143
"""One-sided 80 % point of the standard normal distribution: the power of `detectable_difference`."""

NUM_RESAMPLES = 2000
BOOTSTRAP_SEED = 20251
_CHUNK_CELLS = 2_000_000
"""Most indices drawn at once. It bounds the memory of one bootstrap to about 16 MB."""


class Interval(NamedTuple):
    """A 95 % confidence interval."""

    low: float
    high: float


class McNemar(NamedTuple):
    """Exact McNemar test of two paired binary results."""

    only_a: int
    """Problems that only A solved."""
    only_b: int
    p_value: float
    """Two-sided, from the binomial distribution of the discordant pairs at 1/2; 1.0 without any."""


def wilson(successes: float, total: int) -> Interval:
    """Returns Wilson's score interval of a proportion (1927), in [0, 1]; (0, 1) if `total` is 0."""
    if total <= 0:
        return Interval(0.0, 1.0)
    p = successes / total
    z2 = Z95 * Z95
    center = (p + z2 / (2 * total)) / (1 + z2 / total)
    half = Z95 / (1 + z2 / total) * math.sqrt(p * (1 - p) / total + z2 / (4 * total * total))
    # at 0 and at 1 the bound is exact; rounding must not push it inside
    return Interval(0.0 if successes == 0 else max(0.0, center - half), 1.0 if p == 1 else min(1.0, center + half))


def standard_error(runs: Sequence[float]) -> float | None:
    """Returns the standard error of the mean over runs (seeds), ddof 1; None for fewer than two runs."""
    if len(runs) < 2:
        return None
    return float(np.std(np.asarray(runs, dtype=np.float64), ddof=1) / math.sqrt(len(runs)))


def ratio(numerators: Floats, denominators: Floats) -> float:
    """Returns the mean over columns of sum(numerators) / sum(denominators); both [problems, columns] or [problems]."""
    return float(_column_ratios(numerators.sum(axis=0), denominators.sum(axis=0)).mean())


def _column_ratios(numerators: Floats, denominators: Floats) -> Floats:
    """Quotients with 0 / 0 = 0."""
    out: Floats = np.divide(numerators, denominators, out=np.zeros_like(numerators), where=denominators > 0)
    return out


def _resampled_ratios(numerators: Floats, denominators: Floats) -> Floats:
    """Returns `ratio` of NUM_RESAMPLES samples of problems, drawn with replacement. [resamples]."""
    num = numerators.reshape(len(numerators), -1)
    den = denominators.reshape(len(denominators), -1)
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    chunk = max(1, _CHUNK_CELLS // len(num))
    parts: list[Floats] = []
    for first in range(0, NUM_RESAMPLES, chunk):
        rows = rng.integers(0, len(num), (min(chunk, NUM_RESAMPLES - first), len(num)))
        sums = [(num[:, i][rows].sum(axis=1), den[:, i][rows].sum(axis=1)) for i in range(num.shape[1])]
        parts.append(np.mean([_column_ratios(n, d) for n, d in sums], axis=0))
    return np.concatenate(parts)


def ratio_interval(numerators: Floats, denominators: Floats) -> Interval | None:
    """Percentile bootstrap of `ratio`, clustered by problem: row i is all of problem i. None for fewer than two.

    With repeats the caller sums each problem's seeds into one row first, so that seeds of one problem stay together.
    """
    if len(numerators) < 2:
        return None
    draws = _resampled_ratios(numerators, denominators)
    low, high = np.quantile(draws, [0.025, 0.975])
    return Interval(float(low), float(high))


def score_interval(numerators: Floats, denominators: Floats) -> Interval:
    """95 % interval of an accuracy: Wilson for one binary verdict per problem, else the bootstrap over problems.

    If all problems score the same, the bootstrap has no width and says nothing about the error. Wilson's interval over
    problems is returned then.
    """
    n = len(numerators)
    one_column = numerators.reshape(n, -1).shape[1] == 1 if n else True
    binary = bool(one_column and np.isin(numerators, (0.0, 1.0)).all() and (denominators == 1.0).all())
    if binary:
        return wilson(float(numerators.sum()), n)
    interval = ratio_interval(numerators, denominators)
    if interval is None or interval.high - interval.low < 1e-12:
        return wilson(ratio(numerators, denominators) * n, n)
    return interval


def mcnemar(a: Sequence[bool], b: Sequence[bool]) -> McNemar:
    """Exact two-sided McNemar test of paired verdicts."""
    only_a = sum(x and not y for x, y in zip(a, b, strict=True))
    only_b = sum(y and not x for x, y in zip(a, b, strict=True))
    n = only_a + only_b
    tail = sum(math.comb(n, k) for k in range(min(only_a, only_b) + 1))
    return McNemar(only_a, only_b, min(1.0, 2 * tail / (1 << n)))


def _tango_statistic(only_a: int, only_b: int, total: int, difference: float) -> float:
    """Tango's score statistic (1998) for P(A) - P(B) = `difference`, with the constrained estimate in closed form."""
    d = difference
    coefficient = -only_a - only_b + (2 * total - only_a + only_b) * d
    constant = -only_b * d * (1 - d)
    root = math.sqrt(max(coefficient * coefficient - 8 * total * constant, 0.0))
    p_only_b = (root - coefficient) / (4 * total)
    variance = total * (2 * p_only_b + d * (1 - d))
    gap = only_a - only_b - total * d
    if variance <= 0:
        return math.copysign(math.inf, gap) if gap else 0.0
    return gap / math.sqrt(variance)


def paired_interval(only_a: int, only_b: int, total: int) -> Interval:
    """95 % interval of P(A) - P(B) for paired verdicts, in [-1, 1]: Tango's score interval.

    Source: T. Tango, Statistics in Medicine 17 (1998) 891-908. It keeps a width when no verdict differs,
    z^2 / (n + z^2) on both sides, where bootstrap and Wald intervals collapse to a point.
    """
    if total <= 0:
        return Interval(-1.0, 1.0)
    estimate = (only_a - only_b) / total

    def bound(outside: float, target: float) -> float:
        inside = estimate
        for _ in range(80):
            middle = (inside + outside) / 2
            if abs(_tango_statistic(only_a, only_b, total, middle)) < target:
                inside = middle
            else:
                outside = middle
        return inside

    return Interval(bound(-1.0, Z95), bound(1.0, Z95))


def difference_interval(differences: Floats) -> Interval:
    """95 % interval of the mean of per-problem differences: Tango's when all are -1, 0 or 1, else the bootstrap."""
    n = len(differences)
    if bool(np.isin(differences, (-1.0, 0.0, 1.0)).all()):
        return paired_interval(int((differences > 0).sum()), int((differences < 0).sum()), n)
    interval = ratio_interval(differences, np.ones(n))
    if interval is None:
        return Interval(-1.0, 1.0)
    return interval


def detectable_difference(differences: Floats) -> float | None:
    """Smallest true mean difference that this many pairs find with 80 % power at 5 % two-sided; None without pairs.

    The spread is the observed one with half a flip added on each side, so that a sample without flips does not claim
    infinite power.
    """
    n = len(differences)
    if n == 0:
        return None
    second_moment = (float((differences**2).sum()) + 1.0) / (n + 1)
    variance = second_moment - (float(differences.sum()) / (n + 1)) ** 2
    return min(1.0, (Z95 + Z_POWER80) * math.sqrt(variance / n))
