"""The coverage simulation on a few populations: bounds hold the truth as often as stated, and gates pass as rarely."""

from __future__ import annotations

import pytest
from trimode.bench import coverage

SAMPLES = 1500
ERROR = 3 * (0.06 * 0.94 / SAMPLES) ** 0.5
"""Three standard errors of a share of 94 %."""


@pytest.mark.parametrize("problems", [20, 100])
@pytest.mark.parametrize("seeds", [1, 8])
def test_accuracies_cover(problems: int, seeds: int) -> None:
    populations = [coverage.Accuracy(p, c) for p in (0.02, 0.5, 0.95) for c in (0.0, 0.3, 1.0)]
    for population in (*populations, coverage.TwoKinds(0.99, 0.0, 0.1)):
        found = coverage.measure(population, coverage.accuracy_bounds, SAMPLES, problems, seeds)
        assert found.covered >= 0.94 - ERROR, population
        assert found.width <= 4 * found.ideal + 0.2, population


@pytest.mark.parametrize("problems", [30, 200])
@pytest.mark.parametrize("seeds", [1, 8])
def test_differences_cover_and_gates_do_not_pass(problems: int, seeds: int) -> None:
    equal = [coverage.Models(p, p, c) for p in (0.5, 0.95) for c in (0.0, 0.6)]
    flips = [coverage.Flips(rate, won, whole) for rate in (0.01, 0.05) for won in (0.0, 0.5) for whole in (False, True)]
    for population in (*equal, *flips, coverage.Models(0.95, 0.65, 0.3)):
        found = coverage.measure(population, coverage.difference_bounds, SAMPLES, problems, seeds)
        assert found.covered >= 0.94 - ERROR, population
        assert found.passed <= 0.025 + 3 * (0.025 * 0.975 / SAMPLES) ** 0.5, population


def test_the_command_prints_its_tables(capsys: pytest.CaptureFixture[str]) -> None:
    coverage.main(["--samples", "20", "--problems", "20", "--seeds", "2"])
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if line.startswith("| 20 | 2 |")]
    assert "false PASS" in out
