"""The table of what a step costs."""

from __future__ import annotations

import pytest
from trimode.workers.engine.step_times import StepTimes


def test_between_sizes_times_lie_on_a_line_and_behind_the_last_it_goes_on() -> None:
    times = StepTimes({1: 10.0, 5: 14.0, 9: 22.0})
    assert [times.at(rows) for rows in (1, 3, 5, 7, 9, 11)] == [10.0, 12.0, 14.0, 18.0, 22.0, 26.0]


def test_times_never_fall() -> None:
    times = StepTimes({1: 10.0, 2: 8.0, 4: 12.0, 8: 11.0})
    assert [times.at(rows) for rows in (1, 2, 4, 8)] == [10.0, 10.0, 12.0, 12.0]


def test_graphs_cost_what_their_next_size_costs() -> None:
    times = StepTimes({1: 10.0, 8: 11.0, 16: 15.0}, padded=True)
    assert [times.at(rows) for rows in (1, 2, 8, 9, 16)] == [10.0, 11.0, 11.0, 15.0, 15.0]
    assert times.at(24) == 19.0


def test_a_machine_that_became_slower_makes_all_steps_longer() -> None:
    times = StepTimes({1: 10.0, 8: 11.0, 64: 30.0})
    for _ in range(64):
        times.ran(1, 20.0)
        times.ran(8, 22.0)
    assert times.at(64) / times.at(1) == pytest.approx(3.0, rel=0.1)
    assert times.at(1) == pytest.approx(20.0, rel=0.05)


def test_a_size_that_costs_more_than_was_measured_is_corrected() -> None:
    times = StepTimes({1: 10.0, 8: 11.0, 64: 30.0})
    for _ in range(640):
        times.ran(1, 10.0)
        times.ran(1, 10.0)
        times.ran(64, 60.0)
    assert times.at(64) / times.at(1) == pytest.approx(6.0, rel=0.15)


def test_one_disturbed_step_changes_little() -> None:
    times = StepTimes({1: 10.0, 8: 11.0, 64: 30.0})
    for number in range(320):
        times.ran(8, 11.0 if number != 300 else 5000.0)
    assert times.at(64) / times.at(8) == pytest.approx(30 / 11, rel=0.2)


@pytest.mark.parametrize(("rows", "ms"), [(0, 1.0), (4, 0.0), (4, -1.0)])
def test_a_step_without_rows_or_time_says_nothing(rows: int, ms: float) -> None:
    times = StepTimes({1: 10.0, 8: 11.0})
    for _ in range(64):
        times.ran(rows, ms)
    assert times.at(4) == StepTimes({1: 10.0, 8: 11.0}).at(4)


def test_every_further_request_costs_time() -> None:
    times = StepTimes({1: 1.0, 64: 2.0}, each=0.03)
    assert times.at(64, 64) == pytest.approx(2.0 + 63 * 0.03)
    assert times.at(64) == 2.0


@pytest.mark.parametrize("unit", [1.0, 100.0])
def test_what_a_request_costs_is_learned_from_steps_of_few_and_of_many(unit: float) -> None:
    times = StepTimes({1: 1.0, 64: 2.4, 256: 7.0})
    for _ in range(320):
        times.ran(64, unit * 4.0, 64)
        times.ran(64, unit * 2.4, 2)
    assert times.at(64, 64) == pytest.approx(unit * 4.0, rel=0.1)
    assert times.at(64, 2) == pytest.approx(unit * 2.4, rel=0.1)
    for _ in range(640):  # many steps of one load must not undo it
        times.ran(64, unit * 2.4, 2)
    assert times.at(64, 64) / times.at(64, 2) == pytest.approx(4.0 / 2.4, rel=0.2)


def test_steps_of_a_single_request_say_nothing_of_further_ones() -> None:
    times = StepTimes({1: 1.0, 8: 1.1, 64: 3.0}, each=0.05)
    for _ in range(320):
        times.ran(1, 2.0)
        times.ran(8, 2.1)
        times.ran(64, 2.6)
    assert 0.87 < times.at(64, 33) / (3.0 + 32 * 0.05) < 2.0  # as the steps did that ran


def test_a_correction_fades_if_its_size_does_not_run_again() -> None:
    times = StepTimes({1: 1.0, 64: 3.0, 512: 30.0})
    for _ in range(320):
        times.ran(1, 1.0)
        times.ran(64, 6.0)
    wrong = times.at(64) / times.at(1)
    for _ in range(3200):
        times.ran(1, 1.0)
    assert wrong > 4.0 and times.at(64) / times.at(1) == pytest.approx(3.0, rel=0.15)


def test_a_first_step_that_compiles_is_forgotten_soon() -> None:
    times = StepTimes({1: 1.0, 8: 1.2, 64: 3.0})
    times.ran(32, 700.0, 1)
    for _ in range(64):
        times.ran(32, 2.0, 1)
    assert times.at(32) == pytest.approx(2.0, rel=0.15)
    assert times.at(64) == pytest.approx(3.0, rel=0.2)


@pytest.mark.parametrize("unit", [0.01, 1.0, 100.0])
def test_times_that_are_far_off_are_found(unit: float) -> None:
    times = StepTimes({1: 1.0, 8: 1.2, 64: 3.0}, each=0.02)
    for _ in range(400):
        times.ran(8, unit * (1.2 + 7 * 0.02), 8)
        times.ran(64, unit * (3.0 + 7 * 0.02), 8)
    assert times.at(8, 8) == pytest.approx(unit * 1.34, rel=0.1)
    assert times.at(64, 8) == pytest.approx(unit * 3.14, rel=0.1)
    assert times.at(64, 64) == pytest.approx(unit * (3.0 + 63 * 0.02), rel=0.3)


def test_times_that_were_never_measured_come_from_steps() -> None:
    times = StepTimes()
    for _ in range(64):
        times.ran(1, 30.0)
        times.ran(64, 45.0)
    assert times.at(1) == pytest.approx(30.0, rel=0.1)
    assert times.at(64) == pytest.approx(45.0, rel=0.1)
