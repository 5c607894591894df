"""Colours, means and shared benchmarks of the runs on the page."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from trimode.pipeline.analysis.runs import read_sweep
from trimode.pipeline.analysis.summary import summarize_runs
from trimode.pipeline.report.html.series import NUM_SLOTS, Series, benchmarks_of, make_series, shared_benchmarks
from trimode.tests.fakes.run_folders import FakeRun, demo_sweep, write_run


def series_of(root: Path) -> list[Series]:
    runs, _ = read_sweep(root)
    return make_series(runs, summarize_runs(runs))


def test_each_mode_has_its_colour(tmp_path: Path) -> None:
    assert [s.slot for s in series_of(demo_sweep(tmp_path, samples=3))] == [0, 1, 2, 3]


def test_more_runs_of_one_mode_than_colours_share_the_last_resort(tmp_path: Path) -> None:
    for number in range(7):
        write_run(tmp_path, FakeRun(samples=2, salt=f"_{number}"))
    slots = [s.slot for s in series_of(tmp_path)]
    assert slots == [0, 4, 5, 6, 7, 0, 0]
    assert max(slots) < NUM_SLOTS


def test_a_mean_needs_every_benchmark(tmp_path: Path) -> None:
    write_run(tmp_path, FakeRun(benchmarks=("demo-math", "demo-mcq")))
    (s,) = series_of(tmp_path)
    points = [s.point("accuracy", name) for name in ("demo-math", "demo-mcq")]
    assert all(points)
    mean = s.mean("accuracy", ("demo-math", "demo-mcq"))
    assert mean is not None
    assert mean.value == pytest.approx(sum(p.value for p in points if p) / 2)
    assert mean.interval is not None
    down = [p.value - p.interval.low for p in points if p and p.interval]
    assert mean.value - mean.interval.low == pytest.approx(math.hypot(*down) / 2)
    assert [side for (side,) in mean.errors] == pytest.approx(
        [mean.value - mean.interval.low, mean.interval.high - mean.value]
    )
    assert s.mean("accuracy", ("demo-math", "demo-if")) is None
    assert s.mean("accuracy", ()) is None


def test_benchmarks_of_all_runs_and_of_each_run(tmp_path: Path) -> None:
    write_run(tmp_path, FakeRun(benchmarks=("demo-math", "demo-mcq")))
    write_run(tmp_path, FakeRun(mode="dlm", benchmarks=("demo-math", "demo-if")))
    series = series_of(tmp_path)
    assert benchmarks_of(series) == ["demo-if", "demo-math", "demo-mcq"]
    assert shared_benchmarks(series) == ["demo-math"]
