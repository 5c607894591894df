"""Compares two runs problem by problem: flips, the difference with its interval, and where their texts part."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from trimode.pipeline.analysis.runs import Key, TaskResult
from trimode.pipeline.analysis.statistics import (
    Floats,
    Interval,
    McNemar,
    detectable_difference,
    difference_interval,
    mcnemar,
)
from trimode.pipeline.scoring.verdicts import expected, is_right, predicted, row_points


@dataclass(frozen=True, slots=True)
class Flip:
    """One problem (and seed) that only one side solved."""

    benchmark: str
    sample_id: int
    seed: int
    winner: str
    """`a` or `b`."""
    expected: str
    answer_a: str
    answer_b: str


@dataclass(frozen=True, slots=True)
class Divergence:
    """Where the texts of two answers to the same problem part."""

    benchmark: str
    sample_id: int
    seed: int
    position: int
    """Number of characters that both share from the start."""
    text_a: str
    """How A continues, at most 40 characters."""
    text_b: str


@dataclass(frozen=True, slots=True)
class Pairing:
    """A and B on the problems that both have answered. Accuracies are in percent, differences (A minus B) in points."""

    benchmark: str
    """`all` for several benchmarks pooled."""
    num_problems: int
    num_only_a: int
    """Problems left out because B has not answered them."""
    num_only_b: int
    failed_both: int
    """Samples without an answer on both sides. They are left out of everything else."""
    failed_a: int
    """Samples that only B has answered. They count as wrong for A, and have no text to compare."""
    failed_b: int
    lost_a: float
    """Points by which `failed_a` may have lowered the accuracy of A."""
    lost_b: float
    accuracy_a: float
    accuracy_b: float
    difference: float
    interval: Interval
    mcnemar: McNemar | None
    """None with several seeds, because the verdicts of one problem are not independent."""
    detectable: float | None
    """Smallest true difference, in points, that this comparison finds with 80 % power."""
    flips: tuple[Flip, ...]
    num_answers: int
    """Number of samples that both sides have answered."""
    num_identical: int
    """How many of them have the same text on both sides."""
    divergences: tuple[Divergence, ...]
    differences: Floats
    """One per problem, in [-1, 1]; kept for pooling."""


def pair(a: TaskResult, b: TaskResult) -> Pairing | None:
    """Returns A against B on one benchmark, or None if there is no sample that both have asked and one has answered.

    The score of a row is its points divided by its possible points, averaged over the columns of the metric. An
    instruction metric is therefore weighted by prompt here, not by instruction.
    """
    asked = sorted(a.rows.keys() & b.rows.keys())
    common = [key for key in asked if not (a.failed(key) and b.failed(key))]
    if not common:
        return None
    answered = [key for key in common if not (a.failed(key) or b.failed(key))]
    score_a, score_b = ({key: _score(task, key) for key in common} for task in (a, b))
    ids = sorted({sample_id for sample_id, _ in common})
    by_id: dict[int, list[float]] = {i: [] for i in ids}
    for key in common:
        by_id[key[0]].append(score_a[key] - score_b[key])
    differences = np.array([float(np.mean(by_id[i])) for i in ids])
    right = [(is_right(a.benchmark, a.rows[key]), is_right(b.benchmark, b.rows[key])) for key in common]
    divergences = [found for key in answered if (found := _divergence(a, b, key)) is not None]
    several_seeds = len(common) > len(ids)
    return Pairing(
        benchmark=a.benchmark.name,
        num_problems=len(ids),
        num_only_a=len(set(a.sample_ids) - set(b.sample_ids)),
        num_only_b=len(set(b.sample_ids) - set(a.sample_ids)),
        failed_both=len(asked) - len(common),
        failed_a=sum(a.failed(key) for key in common),
        failed_b=sum(b.failed(key) for key in common),
        lost_a=_lost(a, by_id, common),
        lost_b=_lost(b, by_id, common),
        accuracy_a=100 * float(np.mean(list(score_a.values()))),
        accuracy_b=100 * float(np.mean(list(score_b.values()))),
        difference=100 * float(differences.mean()),
        interval=_percent(difference_interval(differences)),
        mcnemar=None if several_seeds else mcnemar([x for x, _ in right], [y for _, y in right]),
        detectable=_points(detectable_difference(differences)),
        flips=tuple(_flip(a, b, key, x) for key, (x, y) in zip(common, right, strict=True) if x != y),
        num_answers=len(answered),
        num_identical=len(answered) - len(divergences),
        divergences=tuple(divergences),
        differences=differences,
    )


def pool(pairings: list[Pairing]) -> Pairing:
    """Returns one comparison over all problems of several benchmarks."""
    differences = np.concatenate([p.differences for p in pairings])
    tests = [p.mcnemar for p in pairings]
    a = sum(test.only_a for test in tests if test)
    b = sum(test.only_b for test in tests if test)
    answers = sum(p.num_answers for p in pairings)
    return Pairing(
        benchmark="all",
        num_problems=len(differences),
        num_only_a=sum(p.num_only_a for p in pairings),
        num_only_b=sum(p.num_only_b for p in pairings),
        failed_both=sum(p.failed_both for p in pairings),
        failed_a=sum(p.failed_a for p in pairings),
        failed_b=sum(p.failed_b for p in pairings),
        lost_a=sum(p.lost_a * p.num_problems for p in pairings) / len(differences),
        lost_b=sum(p.lost_b * p.num_problems for p in pairings) / len(differences),
        accuracy_a=sum(p.accuracy_a * p.num_problems for p in pairings) / len(differences),
        accuracy_b=sum(p.accuracy_b * p.num_problems for p in pairings) / len(differences),
        difference=100 * float(differences.mean()),
        interval=_percent(difference_interval(differences)),
        mcnemar=None if None in tests else mcnemar([True] * a + [False] * b, [False] * a + [True] * b),
        detectable=_points(detectable_difference(differences)),
        flips=tuple(flip for p in pairings for flip in p.flips),
        num_answers=answers,
        num_identical=sum(p.num_identical for p in pairings),
        divergences=tuple(d for p in pairings for d in p.divergences),
        differences=differences,
    )


def common_prefix(a: str, b: str) -> int:
    """Returns the number of characters that two texts share from the start."""
    for position, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return position
    return min(len(a), len(b))


def _score(task: TaskResult, key: Key) -> float:
    """Returns the score of one row, in [0, 1]."""
    points = row_points(task.benchmark, task.rows[key])
    return float(np.mean([s / p if p else 0.0 for s, p in zip(points.scored, points.possible, strict=True)]))


def _lost(task: TaskResult, by_id: dict[int, list[float]], keys: list[Key]) -> float:
    """Returns the mean over problems of the share of samples that failed on this side, in points."""
    return 100 * sum(1 / len(by_id[key[0]]) for key in keys if task.failed(key)) / len(by_id)


def _flip(a: TaskResult, b: TaskResult, key: Key, a_is_right: bool) -> Flip:
    row_a, row_b = a.rows[key], b.rows[key]
    winner = "a" if a_is_right else "b"
    return Flip(a.benchmark.name, *key, winner, expected(row_a), predicted(row_a), predicted(row_b))


def _divergence(a: TaskResult, b: TaskResult, key: Key) -> Divergence | None:
    """Returns None if both answers are the same text in the same number of tokens, as far as both count alike."""
    field = a.benchmark.generation_key
    text_a, text_b = str(a.rows[key].get(field) or ""), str(b.rows[key].get(field) or "")
    tokens = [task.rows[key].get("num_generated_tokens") for task in (a, b)]
    if text_a == text_b and (tokens[0] == tokens[1] or a.counts_end != b.counts_end):
        return None
    at = common_prefix(text_a, text_b)
    return Divergence(a.benchmark.name, *key, at, text_a[at : at + 40], text_b[at : at + 40])


def _percent(interval: Interval) -> Interval:
    return Interval(100 * interval.low, 100 * interval.high)


def _points(fraction: float | None) -> float | None:
    return None if fraction is None else 100 * fraction
