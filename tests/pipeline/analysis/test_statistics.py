"""Statistics against scipy, closed forms and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize as scipy_optimize
from scipy import stats as scipy_stats
from trimode.pipeline.analysis.statistics import (
    Z95,
    Z_POWER80,
    Floats,
    Interval,
    detectable_difference,
    difference_interval,
    mcnemar,
    mean_interval,
    paired_interval,
    ratio,
    ratio_interval,
    score_interval,
    standard_error,
    student95,
    wilson,
)


@pytest.mark.parametrize(("successes", "total"), [(0, 10), (10, 10), (7, 10), (1, 1319), (1237, 1319), (81, 164)])
def test_wilson_equals_scipy(successes: int, total: int) -> None:
    expected = scipy_stats.binomtest(successes, total).proportion_ci(method="wilson")
    assert wilson(successes, total) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_of_nothing_says_nothing() -> None:
    assert wilson(0, 0) == (0.0, 1.0)


def test_normal_points_equal_scipy() -> None:
    assert pytest.approx(scipy_stats.norm.ppf(0.975), abs=1e-12) == Z95
    assert pytest.approx(scipy_stats.norm.ppf(0.8), abs=1e-12) == Z_POWER80


@given(st.integers(0, 60), st.integers(0, 60))
@settings(max_examples=60, deadline=None)
def test_mcnemar_equals_the_binomial_test(only_a: int, only_b: int) -> None:
    a = [True] * only_a + [False] * only_b + [True, False]
    b = [False] * only_a + [True] * only_b + [True, False]
    found = mcnemar(a, b)
    assert (found.only_a, found.only_b) == (only_a, only_b)
    expected = scipy_stats.binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    assert found.p_value == pytest.approx(expected, abs=1e-12)


def test_mcnemar_of_many_flips_does_not_overflow() -> None:
    assert mcnemar([True] * 3000 + [False] * 3000, [False] * 3000 + [True] * 3000).p_value == 1.0
    assert mcnemar([True] * 3000, [False] * 3000).p_value == 0.0


def _score_statistic(only_a: int, only_b: int, total: int, difference: float) -> float:
    """Tango's statistic with the constrained likelihood maximised numerically, as a check of the closed form."""

    def negative_log_likelihood(p_b: float) -> float:
        p_a = p_b + difference
        rest = 1 - p_a - p_b
        terms = [(only_a, p_a), (only_b, p_b), (total - only_a - only_b, rest)]
        return -sum(n * math.log(max(p, 1e-300)) for n, p in terms if n)

    low, high = max(0.0, -difference), (1 - difference) / 2
    best = scipy_optimize.minimize_scalar(
        negative_log_likelihood, bounds=(low, high), method="bounded", options={"xatol": 1e-12}
    ).x
    variance = total * (2 * best + difference - difference**2)
    return float((only_a - only_b - total * difference) / math.sqrt(variance))


@pytest.mark.parametrize(
    ("only_a", "only_b", "total"), [(5, 2, 40), (1, 1, 100), (12, 2, 50), (3, 30, 200), (0, 6, 80)]
)
def test_paired_interval_ends_where_the_score_test_rejects(only_a: int, only_b: int, total: int) -> None:
    low, high = paired_interval(only_a, only_b, total)
    assert low < (only_a - only_b) / total < high
    assert _score_statistic(only_a, only_b, total, low) == pytest.approx(Z95, abs=1e-3)
    assert _score_statistic(only_a, only_b, total, high) == pytest.approx(-Z95, abs=1e-3)


@pytest.mark.parametrize("total", [10, 100, 1319])
def test_paired_interval_without_flips_has_its_closed_form(total: int) -> None:
    half = Z95**2 / (total + Z95**2)
    assert paired_interval(0, 0, total) == pytest.approx((-half, half), abs=1e-9)


def test_paired_interval_mirrors_when_the_sides_are_swapped() -> None:
    low, high = paired_interval(9, 4, 60)
    assert paired_interval(4, 9, 60) == pytest.approx((-high, -low), abs=1e-9)


@pytest.mark.slow
def test_paired_interval_covers_the_truth() -> None:
    rng = np.random.default_rng(7)
    draws = rng.multinomial(80, [0.10, 0.05, 0.85], size=600)
    covered = [low <= 0.05 <= high for a, b, _ in draws.tolist() for low, high in [paired_interval(a, b, 80)]]
    assert 0.93 <= float(np.mean(covered)) <= 0.98


def test_ratio_is_a_ratio_of_sums_averaged_over_columns() -> None:
    numerators = np.array([[1.0, 2.0], [0.0, 1.0]])
    denominators = np.array([[1.0, 3.0], [1.0, 1.0]])
    assert ratio(numerators, denominators) == pytest.approx((0.5 + 0.75) / 2)


def test_ratio_interval_agrees_with_scipys_bootstrap() -> None:
    rng = np.random.default_rng(1)
    tokens = rng.integers(20, 400, 150).astype(float)
    forwards = tokens / rng.uniform(2, 6, 150)
    found = ratio_interval(tokens, forwards)
    expected = scipy_stats.bootstrap(
        (tokens, forwards),
        lambda t, f: t.sum() / f.sum(),
        paired=True,
        vectorized=False,
        method="percentile",
        n_resamples=4000,
        rng=np.random.default_rng(2),
    ).confidence_interval
    assert found is not None
    assert found == pytest.approx((expected.low, expected.high), rel=0.02)


def test_equal_ratios_have_an_interval_without_width() -> None:
    tokens = np.array([3.0, 5.0, 9.0])
    assert ratio_interval(tokens, tokens) == pytest.approx((1.0, 1.0))


def test_ratio_interval_of_one_problem_is_unknown() -> None:
    assert ratio_interval(np.array([3.0]), np.array([2.0])) is None


def verdicts(right: int, total: int) -> Floats:
    return np.array([1.0] * right + [0.0] * (total - right))


@pytest.mark.parametrize("total", [20, 30, 100, 200])
def test_score_interval_covers_every_proportion(total: int) -> None:
    """Exact: over all outcomes of a binomial. Wilson's interval falls to 84 % here."""
    counts = np.arange(total + 1)
    bounds = [score_interval(verdicts(count, total), np.ones(total)) for count in counts]
    low, high = np.array(bounds).T
    for p in np.linspace(0.001, 0.999, 400):
        chances = scipy_stats.binom.pmf(counts, total, p)
        assert chances[(low <= p) & (p <= high)].sum() >= 0.94, p


@pytest.mark.parametrize(("right", "total"), [(0, 1), (0, 20), (20, 20), (1, 20), (10, 20), (30, 40), (99, 100)])
def test_score_interval_holds_wilsons_and_its_value(right: int, total: int) -> None:
    low, high = score_interval(verdicts(right, total), np.ones(total))
    inner = wilson(right, total)
    assert 0.0 <= low <= inner.low <= right / total <= inner.high <= high <= 1.0


def test_score_interval_stays_useful() -> None:
    low, high = score_interval(verdicts(80, 100), np.ones(100))
    assert high - low <= 1.05 * (wilson(80, 100).high - wilson(80, 100).low)


@pytest.mark.parametrize("seeds", [2, 4, 8])
@pytest.mark.parametrize("mean", [0.01, 0.5, 0.95])
def test_no_score_interval_is_narrower_than_without_any_spread(mean: float, seeds: int) -> None:
    rng = np.random.default_rng(4)
    for _ in range(50):
        found = score_interval(rng.binomial(seeds, mean, 30).astype(float), np.full(30, float(seeds)))
        assert found.high - found.low >= Z95**2 / (30 + Z95**2)


def test_a_problem_with_some_seeds_missing_counts_what_is_there() -> None:
    found = score_interval(np.array([2.0, 1.0, 0.0]), np.array([2.0, 1.0, 2.0]))
    assert 0.0 <= found.low < 3 / 5 < found.high <= 1.0


def test_score_interval_of_nothing_says_nothing() -> None:
    assert score_interval(np.zeros((0, 1)), np.zeros((0, 1))) == (0.0, 1.0)


def test_score_interval_keeps_the_seeds_of_a_problem_together() -> None:
    # every problem is always right or always wrong: 8 seeds must not narrow the interval as if they were 8 problems
    solved = np.array([[8.0]] * 50 + [[0.0]] * 50)
    clustered = score_interval(solved, np.full((100, 1), 8.0))
    as_if_independent = wilson(400, 800)
    assert clustered.high - clustered.low > 2 * (as_if_independent.high - as_if_independent.low)


def test_score_interval_keeps_a_width_when_every_seed_is_right() -> None:
    low, high = score_interval(np.full((20, 1), 4.0), np.full((20, 1), 4.0))
    assert high == 1.0
    assert low <= wilson(20, 20).low


@pytest.mark.parametrize(("only_a", "only_b", "total"), [(0, 0, 40), (5, 2, 40), (0, 1, 30), (12, 0, 50), (20, 0, 20)])
def test_difference_interval_of_verdicts_holds_tangos(only_a: int, only_b: int, total: int) -> None:
    differences = np.array([1.0] * only_a + [-1.0] * only_b + [0.0] * (total - only_a - only_b))
    low, high = difference_interval(differences)
    inner = paired_interval(only_a, only_b, total)
    assert -1.0 <= low <= inner.low + 1e-12
    assert inner.high - 1e-12 <= high <= 1.0


@pytest.mark.parametrize("answers", [1, 2, 5])
def test_a_few_flipped_seeds_never_narrow_a_difference_below_no_flip(answers: int) -> None:
    """40 problems, 8 seeds, a few single answers differ: the bootstrap gave intervals of a point or two and passed."""
    differences = np.zeros(40)
    differences[:answers] = 1 / 8
    low, high = difference_interval(differences)
    no_flip = Z95**2 / (40 + Z95**2)
    assert low < -0.5 * no_flip
    assert high - low >= 2 * no_flip


@pytest.mark.slow
def test_a_gate_at_the_margin_passes_wrongly_as_often_as_stated() -> None:
    """Equal models with rare flips, 8 seeds: the percentile bootstrap passes when A alone won the few there are."""
    rng = np.random.default_rng(12)
    wrong = 0
    for _ in range(800):
        flips = rng.multinomial(8, (0.005, 0.005, 0.99), 40)
        wrong += difference_interval((flips[:, 0] - flips[:, 1]) / 8).low >= 0.0
    assert wrong / 800 <= 0.025 + 3 * math.sqrt(0.025 * 0.975 / 800)


def test_a_mean_of_accuracies_stays_on_the_scale() -> None:
    found = mean_interval([100.0, 99.0, 0.5], [Interval(90.0, 100.0), Interval(95.0, 99.9), Interval(0.0, 4.0)])
    assert 0.0 <= found.low < (100.0 + 99.0 + 0.5) / 3 < found.high <= 100.0
    assert mean_interval([50.0], [Interval(40.0, 65.0)]) == (40.0, 65.0)


@given(
    st.lists(st.tuples(st.integers(0, 8), st.integers(1, 8)), min_size=1, max_size=30),
    st.integers(1, 3),
)
@settings(max_examples=60, deadline=None)
def test_score_intervals_stay_on_the_scale_and_hold_their_value(pairs: list[tuple[int, int]], columns: int) -> None:
    scored = np.array([[float(min(a, b))] * columns for a, b in pairs])
    possible = np.array([[float(b)] * columns for _, b in pairs])
    low, high = score_interval(scored, possible)
    assert 0.0 <= low <= ratio(scored, possible) <= high <= 1.0


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=30))
@settings(max_examples=60, deadline=None)
def test_difference_intervals_stay_on_the_scale_and_hold_their_value(values: list[float]) -> None:
    low, high = difference_interval(np.array(values))
    assert -1.0 <= low <= float(np.mean(values)) + 1e-9
    assert float(np.mean(values)) - 1e-9 <= high <= 1.0


@pytest.mark.parametrize("degrees", [4, 10, 23, 100, 1000])
def test_students_point_equals_scipy(degrees: int) -> None:
    assert student95(degrees) == pytest.approx(scipy_stats.t.ppf(0.975, degrees), rel=5e-4)


def test_the_ratio_interval_of_few_problems_covers() -> None:
    """The percentile bootstrap covers 91 % here."""
    rng = np.random.default_rng(8)
    covered = 0
    for _ in range(600):
        tokens = np.exp(rng.normal(4, 0.6, 20))
        found = ratio_interval(tokens, tokens / rng.choice([2.0, 6.0], 20))
        assert found is not None
        covered += found.low <= 3.0 <= found.high
    assert covered / 600 >= 0.94 - 0.02


def test_difference_interval_of_fractions_covers_their_mean() -> None:
    differences = np.random.default_rng(5).normal(0.1, 0.2, 300).clip(-1, 1)
    low, high = difference_interval(differences)
    assert low < differences.mean() < high
    assert 1.0 <= (high - low) / (2 * Z95 * differences.std() / math.sqrt(300)) <= 1.3


def test_standard_error_over_seeds() -> None:
    runs = [61.0, 63.5, 60.0, 64.0]
    assert standard_error(runs) == pytest.approx(scipy_stats.sem(runs))
    assert standard_error([50.0]) is None


def test_detectable_difference_has_the_power_it_states() -> None:
    rng = np.random.default_rng(11)
    differences = rng.choice([1.0, -1.0, 0.0], size=1000, p=[0.05, 0.05, 0.9])
    found = detectable_difference(differences)
    assert found == pytest.approx((Z95 + Z_POWER80) * math.sqrt(0.1 / 1000), rel=0.15)
    trials = rng.choice([1.0, -1.0, 0.0], size=(800, 1000), p=[0.05 + found / 2, 0.05 - found / 2, 0.9])
    power = np.mean(np.abs(trials.mean(axis=1)) / (trials.std(axis=1) / math.sqrt(1000)) > Z95)
    assert 0.74 <= power <= 0.86


def test_detectable_difference_without_flips_is_not_zero() -> None:
    found = detectable_difference(np.zeros(100))
    assert found is not None
    assert found > 0.01
