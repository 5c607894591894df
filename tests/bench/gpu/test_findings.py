"""What sections write is read back, and becomes tables."""

from __future__ import annotations

from pathlib import Path

import pytest
from trimode.bench.gpu.records import Findings, Note, Record, append, read
from trimode.bench.gpu.report import Ended, page, records_table
from trimode.bench.gpu.sections import SECTIONS, TOTAL_S, deadlines
from trimode.core.project import PROJECT_DIR

COPY = Record(name="copy rate", value=4e12, unit="byte/s", conditions={"bytes": 8})


def test_findings_are_read_back(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    append(file, COPY)
    append(file, Note(kind="cut", text="left out"))
    found = read([file, tmp_path / "missing.jsonl"])
    assert found.records == [COPY]
    assert found.notes == [Note(kind="cut", text="left out")]


def test_a_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    append(file, COPY)
    file.write_text(file.read_text() * 2 + file.read_text()[:20])
    assert read([file]).records == [COPY, COPY]


def test_records_are_found_by_name_and_conditions() -> None:
    found = Findings([COPY], [])
    assert found.value("copy rate", bytes=8) == 4e12
    assert found.value("copy rate", bytes=9) is None
    assert found.value("matmul rate") is None


def test_a_table_has_the_columns_that_hold_something() -> None:
    step = Record(name="step", value=4.5, unit="ms", rival="eager", rival_value=9.0, ratio=2.0, conditions={"n": 1})
    assert records_table([step, Record(name="step", value=5.0, unit="ms", conditions={"n": 8})]).splitlines() == [
        "| n | ms | rival | rival, ms | trimode is |",
        "| --- | --- | --- | --- | --- |",
        "| 1 | 4.5 | eager | 9 | 2.00x |",
        "| 8 | 5 |  |  |  |",
    ]


def test_the_page_names_what_was_left_out() -> None:
    found = Findings([COPY], [Note(kind="cut", text="steps of 3B: left out")])
    text = page(found, [Ended(name="steps", seconds=1.0, status="stopped")], [], dry=False)
    assert "- steps of 3B: left out" in text
    assert "| steps | 1.0 | stopped |" in text
    assert "DRY RUN" not in text


def test_sections_end_one_after_the_other_within_nine_minutes() -> None:
    ends = list(deadlines().values())
    assert ends == sorted(ends)
    assert ends[-1] == pytest.approx(TOTAL_S)
    assert TOTAL_S + 10 < 9 * 60


def test_every_section_has_its_module() -> None:
    folder = PROJECT_DIR / "bench" / "gpu"
    assert [section.name for section in SECTIONS if not (folder / f"{section.name}.py").is_file()] == []
