"""Intervals, paired tests and detectable differences for scores that come per problem.

Every function takes plain numbers or arrays and returns fractions, not percent. Nothing is drawn at random.
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

NUM_ADDED = Z95 * Z95
"""Number of problems that an interval adds to the observed ones, half at each end of the scale: 3.84."""


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


def student95(degrees: float) -> float:
    """Returns the two-sided 95 % point of Student's t distribution, to 0.5 % from 3.8 degrees of freedom on.

    Fisher's expansion around the normal point, in powers of 1 / degrees.
    """
    z = Z95
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / degrees**power for power, term in enumerate(terms, 1))


def _quantile(num_problems: int) -> float:
    """Returns the t point of an interval over problems, of which NUM_ADDED are added."""
    return student95(num_problems - 1 + NUM_ADDED)


def wilson(successes: float, total: float) -> Interval:
    """Returns Wilson's score interval of a proportion (1927), in [0, 1]; (0, 1) if `total` is 0."""
    if total <= 0:
        return Interval(0.0, 1.0)
    low, high = _wilson(np.array(successes / total), np.array(float(total)), Z95)
    return Interval(float(low), float(high))


def _wilson(p: Floats, total: Floats, quantile: float) -> tuple[Floats, Floats]:
    """Bounds of Wilson's interval of a proportion `p` of `total` trials; infinitely many give `p` itself."""
    share = quantile * quantile / total
    center = (p + share / 2) / (1 + share)
    half = np.sqrt(share * p * (1 - p) + share * share / 4) / (1 + share)
    # at 0 and at 1 the bound is exact; rounding must not push it inside
    return np.where(p <= 0, 0.0, np.maximum(center - half, 0.0)), np.where(p >= 1, 1.0, np.minimum(center + half, 1.0))


def standard_error(runs: Sequence[float]) -> float | None:
    """Returns the standard error of the mean over runs (seeds), ddof 1; None for fewer than two runs."""
    if len(runs) < 2:
        return None
    return float(np.std(np.asarray(runs, dtype=np.float64), ddof=1) / math.sqrt(len(runs)))


def ratio(numerators: Floats, denominators: Floats) -> float:
    """Returns the mean over columns of sum(numerators) / sum(denominators); both [problems, columns] or [problems]."""
    return float(_quotients(numerators.sum(axis=0), denominators.sum(axis=0)).mean())


def _quotients(numerators: Floats, denominators: Floats) -> Floats:
    """Quotients with 0 / 0 = 0."""
    out: Floats = np.divide(numerators, denominators, out=np.zeros_like(numerators), where=denominators > 0)
    return out


def ratio_interval(numerators: Floats, denominators: Floats) -> Interval | None:
    """95 % interval of sum(numerators) / sum(denominators), both positive and [problems]. None for fewer than two.

    Student's interval of the logarithm. The standard error is that of the linearised ratio, each residual divided by
    one minus the problem's share of the denominators (jackknife). The degrees of freedom follow from the effective
    number of problems (Kish), because a few long problems may hold most of the sums. With repeats the caller sums each
    problem's seeds into one row first, so that seeds of one problem stay together.
    """
    n, value = len(numerators), ratio(numerators, denominators)
    if n < 2 or value <= 0:
        return None
    shares = denominators / denominators.sum()
    residuals = (numerators - value * denominators) / numerators.mean() / np.maximum(1 - shares, 1e-3)
    relative = math.sqrt(float((residuals**2).sum()) / (n * (n - 1)))
    t = student95(max(1 / float((shares**2).sum()) - 1, 3.0))
    factor = math.exp(min(t * relative, 300.0))
    return Interval(value / factor, value * factor)


def score_interval(numerators: Floats, denominators: Floats) -> Interval:
    """95 % interval of `ratio` for points scored and points possible, in [0, 1]; row i is all of problem i.

    With several seeds the caller sums each problem's seeds into one row first.
    """
    n = len(numerators)
    if n == 0:
        return Interval(0.0, 1.0)
    low, high = score_bounds(numerators.reshape(1, n, -1), denominators.reshape(1, n, -1))
    value = ratio(numerators, denominators)
    return Interval(min(float(low[0]), value), max(float(high[0]), value))


def score_bounds(numerators: Floats, denominators: Floats) -> tuple[Floats, Floats]:
    """Bounds of `score_interval` for many samples at once: [samples, problems, columns] -> two of [samples].

    Two intervals are computed, and the outer bound of each side counts. The first is the adjusted one of Agresti and
    Coull, over problems: with NUM_ADDED problems added, half solved in all seeds and half in none. The second is
    Wilson's with the number of problems divided by the design effect. Both use the spread of whole problems, so they
    hold for any correlation between the seeds of a problem, and the first keeps a width if all problems agree.
    """
    n = numerators.shape[1]
    t, total = _quantile(n), n + NUM_ADDED
    sizes = denominators.mean(axis=1)
    values = _quotients(numerators.sum(axis=1), denominators.sum(axis=1))

    def squares(centers: Floats) -> Floats:
        """Sums of squares of what each problem adds to the difference from `centers`, the columns averaged."""
        gaps = numerators - centers[:, None] * denominators
        parts = np.divide(gaps, sizes[:, None], out=np.zeros_like(gaps), where=sizes[:, None] > 0)
        return np.asarray((parts.mean(axis=2) ** 2).sum(axis=1))

    centers = (n * values + NUM_ADDED / 2) / total
    center, value = centers.mean(axis=1), values.mean(axis=1)
    spread = squares(centers) + NUM_ADDED / 2 * ((1 - center) ** 2 + center**2)
    half = t * np.sqrt(spread / (total * (total - 1)))
    variance = squares(values) / (n * max(n - 1, 1))
    effective = np.divide(value * (1 - value), variance, out=np.full_like(value, np.inf), where=variance > 0)
    low, high = _wilson(value, effective, t)
    return np.clip(np.minimum(center - half, low), 0.0, 1.0), np.clip(np.maximum(center + half, high), 0.0, 1.0)


def mcnemar(a: Sequence[bool], b: Sequence[bool]) -> McNemar:
    """Exact two-sided McNemar test of paired verdicts."""
    only_a = sum(x and not y for x, y in zip(a, b, strict=True))
    only_b = sum(y and not x for x, y in zip(a, b, strict=True))
    n = only_a + only_b
    tail = sum(math.comb(n, k) for k in range(min(only_a, only_b) + 1))
    return McNemar(only_a, only_b, min(1.0, 2 * tail / (1 << n)))


def paired_interval(only_a: float, only_b: float, total: float) -> Interval:
    """95 % interval of P(A) - P(B) for paired verdicts, in [-1, 1]: Tango's score interval.

    Source: T. Tango, Statistics in Medicine 17 (1998) 891-908. It keeps a width when no verdict differs,
    z^2 / (n + z^2) on both sides, where bootstrap and Wald intervals collapse to a point.
    """
    if total <= 0:
        return Interval(-1.0, 1.0)
    low, high = _tango(np.array([only_a / total]), np.array([only_b / total]), np.array([float(total)]), Z95)
    return Interval(float(low[0]), float(high[0]))


def _tango_statistic(only_a: Floats, only_b: Floats, total: Floats, difference: Floats) -> Floats:
    """Tango's score statistic for P(A) - P(B) = `difference`, from the shares that only A and only B solved."""
    d = difference
    coefficient = -only_a - only_b + (2 - only_a + only_b) * d
    root = np.sqrt(np.maximum(coefficient * coefficient + 8 * only_b * d * (1 - d), 0.0))
    variance = (root - coefficient) / 2 + d * (1 - d)  # twice the constrained estimate of P(only B), and the rest
    gap = only_a - only_b - d
    with np.errstate(divide="ignore", invalid="ignore"):
        found = gap * np.sqrt(total / variance)
    return np.where(variance > 0, found, np.where(gap == 0, 0.0, np.copysign(np.inf, gap)))


def _tango(only_a: Floats, only_b: Floats, total: Floats, quantile: float) -> tuple[Floats, Floats]:
    """Bounds of Tango's interval, by bisection on its statistic; all arguments but `quantile` are arrays."""

    def bound(end: float) -> Floats:
        inside, outside = only_a - only_b, np.full_like(only_a, end)
        for _ in range(60):
            middle = (inside + outside) / 2
            holds = np.abs(_tango_statistic(only_a, only_b, total, middle)) < quantile
            inside, outside = np.where(holds, middle, inside), np.where(holds, outside, middle)
        return inside

    return bound(-1.0), bound(1.0)


def difference_interval(differences: Floats) -> Interval:
    """95 % interval of the mean of per-problem differences in score, each in [-1, 1]: the mean over its seeds."""
    n = len(differences)
    if n == 0:
        return Interval(-1.0, 1.0)
    low, high = difference_bounds(differences.reshape(1, n))
    return Interval(float(low[0]), float(high[0]))


def difference_bounds(differences: Floats) -> tuple[Floats, Floats]:
    """Bounds of `difference_interval` for many samples at once: [samples, problems] -> two of [samples].

    As in `score_bounds` the outer bound of two intervals counts. The first adds NUM_ADDED problems, half solved by A
    alone and half by B alone, in all seeds; without any difference its width is that of Tango's interval or more. The
    second is Tango's with the number of problems divided by the design effect.
    """
    n = differences.shape[1]
    t, total = _quantile(n), n + NUM_ADDED
    mean, squares = differences.mean(axis=1), (differences**2).sum(axis=1)
    center = n * mean / total
    half = t * np.sqrt((squares + NUM_ADDED - total * center**2) / (total * (total - 1)))
    only_a, only_b = np.maximum(differences, 0.0).mean(axis=1), np.maximum(-differences, 0.0).mean(axis=1)
    variance = np.maximum(squares / n - mean**2, 0.0) / max(n - 1, 1)
    binary = only_a + only_b - mean**2
    # a spread above rounding; without one the first interval is the wider one anyway
    effective = np.divide(binary, variance, out=np.full_like(mean, 1e12), where=variance > 1e-15)
    low, high = _tango(only_a, only_b, effective, t)
    return np.clip(np.minimum(center - half, low), -1.0, 1.0), np.clip(np.maximum(center + half, high), -1.0, 1.0)


def mean_interval(values: Sequence[float], intervals: Sequence[Interval]) -> Interval:
    """95 % interval of the plain mean of independent values, from their own intervals.

    Each bound moves by the root of the summed squares of the single distances, divided by their number (Zou and
    Donner 2008). So a mean of percentages stays within 0 and 100 as its parts do.
    """
    pairs = list(zip(values, intervals, strict=True))
    down = math.sqrt(sum(max(value - interval.low, 0.0) ** 2 for value, interval in pairs))
    up = math.sqrt(sum(max(interval.high - value, 0.0) ** 2 for value, interval in pairs))
    mean = sum(values) / len(pairs)
    return Interval(mean - down / len(pairs), mean + up / len(pairs))


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
