"""Cards and table rows as plain values."""

from __future__ import annotations

from pathlib import Path

from trimode.pipeline.analysis.runs import read_sweep
from trimode.pipeline.analysis.summary import summarize_runs
from trimode.pipeline.report.formats import COLUMNS
from trimode.pipeline.report.html.series import Series, make_series
from trimode.pipeline.report.html.tables import make_cards, numbers_rows, settings_rows
from trimode.tests.fakes.run_folders import FakeRun, demo_sweep, write_run


def series_of(root: Path) -> list[Series]:
    runs, _ = read_sweep(root)
    return make_series(runs, summarize_runs(runs))


def test_every_mode_is_compared_with_ar(tmp_path: Path) -> None:
    ar, dlm, spec, adapted = make_cards(series_of(demo_sweep(tmp_path, samples=12)))
    assert ar.against_ar is None
    assert ar.remark == "Means over 4 benchmarks. The other modes are compared with this one."
    assert all(card.against_ar is not None and card.remark == "" for card in (dlm, spec, adapted))
    assert (ar.same_text, dlm.same_text, spec.same_text) == (None, None, 100.0)
    assert spec.flips == "no flips"


def test_flips_are_counted_on_both_sides(tmp_path: Path) -> None:
    write_run(tmp_path, FakeRun(samples=60))
    write_run(tmp_path, FakeRun(mode="dlm", samples=60))
    card = make_cards(series_of(tmp_path))[1]
    assert card.against_ar is not None
    won, lost = (sum(flip.winner == side for flip in card.against_ar.flips) for side in ("a", "b"))
    assert won + lost > 0
    assert card.flips == f"{won} won and {lost} lost"


def test_runs_without_a_common_benchmark_have_no_means(tmp_path: Path) -> None:
    write_run(tmp_path, FakeRun(benchmarks=("demo-math",)))
    write_run(tmp_path, FakeRun(mode="dlm", benchmarks=("demo-mcq",)))
    ar, dlm = make_cards(series_of(tmp_path))
    assert (ar.accuracy, ar.tpf, ar.speed, ar.remark) == (None, None, None, "")
    assert dlm.remark == "No problem in common with ar."


def test_without_ar_there_is_no_comparison(tmp_path: Path) -> None:
    write_run(tmp_path, FakeRun(mode="dlm"))
    (card,) = make_cards(series_of(tmp_path))
    assert (card.against_ar, card.remark) == (None, "")


def test_numbers_have_a_cell_per_column_with_intervals_below(tmp_path: Path) -> None:
    groups = numbers_rows(series_of(demo_sweep(tmp_path, samples=6)))
    assert [[row.benchmark for row in group] for group in groups] == [
        [name] * 4 for name in ("demo-code", "demo-if", "demo-math", "demo-mcq")
    ]
    cells = dict(zip(COLUMNS[2:], groups[0][3].cells, strict=True))
    assert [name for name, cell in cells.items() if cell.notes] == ["TPF", "tok/s"]


def test_settings_leave_a_dash_where_a_run_lacks_one(tmp_path: Path) -> None:
    write_run(tmp_path, FakeRun(benchmarks=("demo-math",)))
    write_run(tmp_path, FakeRun(mode="dlm", benchmarks=("demo-mcq",)))
    settings = dict(settings_rows(series_of(tmp_path)))
    assert settings["state"] == ["completed", "completed"]
    assert settings["seeds of demo-mcq"] == ["\N{EN DASH}", "0"]
    assert "block_length" in settings
