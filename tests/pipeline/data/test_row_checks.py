"""Rows that cannot be asked keep their place and say why; the others stay as they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from trimode.core.errors import ConfigError
from trimode.pipeline.benchmarks import load_benchmark
from trimode.pipeline.data import load_rows
from trimode.pipeline.data.row_checks import MAX_DEPTH, row_error

GSM8K = load_benchmark("gsm8k")
GOOD = {"problem": "What is 1 + 1?", "expected_answer": 2}
DAMAGED = {
    "surrogate": (rb'{"problem": "cut emoji \ud83d", "expected_answer": 2}', "no valid Unicode: got '\\ud83d'"),
    "surrogate bytes": (b'{"problem": "cut \xed\xa0\xbd", "expected_answer": 2}', "no valid Unicode"),
    "broken utf-8": (b'{"problem": "\xff", "expected_answer": 2}', "is no JSON"),
    "huge integer": (b'{"problem": "p", "expected_answer": 1' + b"0" * 5000 + b"}", "is no JSON"),
    "not a number": (b'{"problem": "p", "expected_answer": NaN}', "expected_answer that is no text: got NaN"),
    "infinity": (b'{"problem": 1e999, "expected_answer": 1}', "problem that is no text: got Infinity"),
    "no text": (b'{"problem": null, "expected_answer": 1}', "problem that is no text: got null"),
    "a list": (b'{"problem": ["a"], "expected_answer": 1}', "problem that is no text"),
    "no answer": (b'{"problem": "p", "expected_answer": null}', "expected_answer that is no text: got null"),
    "nested": (b"[" * 100_000, "is no JSON"),
    "nested but readable": (
        b'{"problem": "p", "x": ' + b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1) + b"}",
        "is nested too deeply; valid: up to 100 levels",
    ),
    "no object": (b"[1, 2]", "is no JSON object: got list"),
    "a string": (b'"problem"', "is no JSON object: got str"),
    "cut": (b'{"problem": "p", "expec', "is no JSON"),
    "lacks a field": (b'{"question": "p"}', "has no field problem; it has: question"),
    "empty": (b"{}", "has no field problem"),
}


def write(folder: Path, *lines: bytes) -> Path:
    path = folder / "gsm8k" / "test.jsonl"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return folder


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_row_keeps_its_place_and_costs_no_other(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    line, reason = DAMAGED[kind]
    good = json.dumps(GOOD).encode()
    rows = load_rows(GSM8K, write(tmp_path, good, line, good))
    assert [rows[0], rows[2]] == [GOOD, GOOD]
    error = row_error(GSM8K, rows[1])
    assert error is not None
    assert reason in error
    assert "1 of 3 rows cannot be asked and are recorded without an answer; the first: row 2" in caplog.text
    json.dumps(rows).encode("ascii")


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_file_without_any_good_row_is_refused_before_anything_starts(kind: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no row can be asked: row 1"):
        load_rows(GSM8K, write(tmp_path, DAMAGED[kind][0]))


def test_a_byte_order_mark_and_blank_lines_cost_nothing(tmp_path: Path) -> None:
    good = json.dumps(GOOD).encode()
    rows = load_rows(GSM8K, write(tmp_path, b"\xef\xbb\xbf" + good, b"", b"  \t\r", b"\xef\xbb\xbf", good + b"\r"))
    assert rows == [GOOD, GOOD]


@pytest.mark.parametrize("value", ["\x00", "\U0001f600", "{problem}", 3, 2.5, "", "x" * 100_000])
def test_text_and_numbers_of_every_kind_can_be_asked(value: object) -> None:
    assert row_error(GSM8K, {"problem": value, "expected_answer": value}) is None


def test_other_fields_may_hold_anything_that_json_can() -> None:
    assert row_error(GSM8K, GOOD | {"note": "\ud83d", "list": [None, float("nan")], "data_error": 1}) is None


def test_a_raw_row_that_cannot_be_converted_costs_no_other(tmp_path: Path) -> None:
    path = tmp_path / "gsm8k" / "test_original.jsonl"
    path.parent.mkdir()
    raw = [{"question": "q", "answer": "a #### 7"}, {"question": "q"}, {"question": "q", "answer": "#### many"}]
    raw += [{"question": "q", "answer": "#### 1e999"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in raw))
    rows = load_rows(GSM8K, tmp_path)
    assert rows[0]["expected_answer"] == 7
    errors = [str(row_error(GSM8K, row)) for row in rows[1:]]
    assert [error.partition(":")[0] for error in errors] == [
        "cannot be converted (KeyError",
        "cannot be converted (ValueError",
        "cannot be converted (OverflowError",
    ]
