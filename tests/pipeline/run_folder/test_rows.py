"""The one reader of row lines and the one rule of which row of a position counts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from trimode.core.errors import ConfigError
from trimode.core.protocol import Row
from trimode.pipeline.run_folder.paths import RunPaths
from trimode.pipeline.run_folder.rows import (
    ERROR_KIND,
    INFRASTRUCTURE,
    LEDGER,
    POSITION,
    add_row,
    finished_positions,
    num_rows,
    parse_row,
    read_lines,
    read_rows,
)
from trimode.tests.fakes.specs import task_spec

ANSWER: Row = {"generation": "7"}
LATER: Row = {"generation": "8"}
FAILURE: Row = {"generation": "", ERROR_KIND: INFRASTRUCTURE}
LATER_FAILURE: Row = {"generation": "", ERROR_KIND: INFRASTRUCTURE, "error": "later"}
REFUSAL: Row = {"generation": "", ERROR_KIND: "request"}


@pytest.mark.parametrize(
    ("earlier", "later", "counts"),
    [
        (ANSWER, LATER, LATER),
        (FAILURE, ANSWER, ANSWER),
        (FAILURE, LATER_FAILURE, LATER_FAILURE),
        (ANSWER, FAILURE, ANSWER),
        (REFUSAL, FAILURE, REFUSAL),
        (FAILURE, REFUSAL, REFUSAL),
    ],
)
def test_the_last_row_counts_but_a_failure_never_over_an_answer(earlier: Row, later: Row, counts: Row) -> None:
    rows = {0: earlier}
    assert add_row(rows, 0, later) == (counts is later)
    assert rows == {0: counts}


def test_the_rule_holds_between_the_finished_file_and_the_newer_rows(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    paths.task_dir("gsm8k").mkdir(parents=True)
    paths.output("gsm8k", 0).write_text("".join(json.dumps(row) + "\n" for row in (ANSWER, FAILURE)))
    newer = [FAILURE | {POSITION: 0}, ANSWER | {POSITION: 1}, FAILURE | {POSITION: 2}]
    paths.output_async("gsm8k", 0).write_text("".join(json.dumps(row) + "\n" for row in newer))
    assert read_rows(paths, "gsm8k", 0) == {0: ANSWER, 1: ANSWER, 2: FAILURE}
    assert finished_positions(paths, "gsm8k", 0) == {0, 1}


def test_the_strict_reader_names_a_damaged_line(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    path.write_text('{"a": 1}\n{"b": \n{"c": 3}\n')
    with pytest.raises(ConfigError, match=r"rows: line 2 is no JSON row"):
        list(read_lines(path))


def test_the_strict_reader_refuses_what_is_no_object(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    path.write_text("[1]\n")
    with pytest.raises(ConfigError, match=r"got list; valid: an object"):
        list(read_lines(path))


def test_the_strict_reader_leaves_out_the_line_that_is_being_written(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    path.write_text('{"a": 1}\n{"b": 2}')
    assert list(read_lines(path)) == [{"a": 1}]


def test_the_tolerant_reader_notes_every_damaged_line_and_goes_on(tmp_path: Path) -> None:
    path, notes = tmp_path / "rows", list[str]()
    path.write_text('{"a": 1}\n{"b": \n\n{"c": 3}\n{"d"')
    assert list(read_lines(path, notes)) == [{"a": 1}, {"c": 3}]
    assert notes == [f"{path}, line 2: torn, left out", f"{path}, line 5: torn, left out"]


def test_the_tolerant_reader_notes_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    notes = list[str]()
    assert list(read_lines(tmp_path / "none", notes)) == []
    assert "cannot be read" in notes[0]


def test_a_mark_of_the_byte_order_is_no_part_of_a_row(tmp_path: Path) -> None:
    assert parse_row('\ufeff{"a": 1}\n', tmp_path, 1) == {"a": 1}
    with pytest.raises(ConfigError, match="line 3 is no JSON row"):
        parse_row("[" * 100_000, tmp_path, 3)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000])
def test_a_damaged_manifest_is_one_line_that_names_it(tmp_path: Path, content: bytes) -> None:
    paths = RunPaths(tmp_path)
    paths.manifest.write_bytes(content)
    with pytest.raises(ConfigError, match=r"manifest\.json"):
        num_rows(paths, task_spec())


@pytest.mark.parametrize(
    "damage", [{POSITION: "x"}, {POSITION: None}, {POSITION: -1}, {POSITION: 1.5}, {LEDGER: {}}, {LEDGER: {"mode": 7}}]
)
def test_a_damaged_arrived_row_is_one_line_that_names_it(tmp_path: Path, damage: Row) -> None:
    paths = RunPaths(tmp_path)
    path = paths.output_async("demo-math", 0)
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(ANSWER | {POSITION: 0}) + "\n" + json.dumps(ANSWER | {POSITION: 1} | damage) + "\n")
    with pytest.raises(ConfigError, match="line 2 is no arrived row"):
        finished_positions(paths, "demo-math", 0)
