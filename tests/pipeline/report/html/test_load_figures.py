"""A sweep over loads on the page and in the report command."""

from __future__ import annotations

from pathlib import Path

import pytest
from trimode.pipeline.report.__main__ import main
from trimode.pipeline.report.html.load_figures import draw_loads
from trimode.tests.fakes.run_folders import FakeRun, write_run
from trimode.tests.pipeline.analysis.test_loads import sweep


def test_every_setting_and_load_is_drawn_and_the_note_says_which_to_use() -> None:
    speed, both = draw_loads([sweep()])
    for panel in (speed, both):
        assert all(f"{name}, {load} at a time" in panel.svg for name in ("ar", "dlm 32", "auto") for load in (1, 8, 64))
    assert sweep().advice in speed.note and "m, 7 problems, 2 cores." in speed.note
    assert "80.0 % at 300 tokens/s" in both.svg
    assert draw_loads([]) == []


def test_a_sweep_over_loads_alone_has_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep().write(tmp_path)
    assert main([str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert sweep().advice in printed and "No scored answers" not in printed
    page = (tmp_path / "report.html").read_text()
    assert "figure-load-speed0" in page and "figure-load-accuracy0" in page
    assert 'id="samples"' not in page and "<script" not in page


def test_it_stands_beside_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path, FakeRun(samples=3))
    sweep().write(tmp_path / "loads")
    assert main([str(tmp_path), "--format", "json"]) == 0
    assert sweep().advice in capsys.readouterr().err
    assert main([str(tmp_path)]) == 0
    page = (tmp_path / "report.html").read_text()
    assert "figure-load-speed0" in page and "figure-benchmarks" in page


def test_a_damaged_sweep_is_a_remark_beside_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path, FakeRun(samples=3))
    sweep().write(tmp_path).write_text("{")
    assert main([str(tmp_path)]) == 0
    assert "concurrency.json cannot be read" in capsys.readouterr().err
