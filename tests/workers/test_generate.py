"""The generate command line: rows in order, one bad row fails itself only, exit status."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from trimode.tests.workers.micro import MICRO, load_cases
from trimode.workers import generate

CASE = load_cases()[0]


def run(
    monkeypatch: pytest.MonkeyPatch, folder: Path, lines: list[str], *flags: str
) -> tuple[int, list[dict[str, object]]]:
    (folder / "in.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    paths = ["--input", str(folder / "in.jsonl"), "--output", str(folder / "out.jsonl")]
    fixed = ["--model", str(MICRO), "--dtype", "float32", "--device", "cpu", "--kv-cache-gb", "0.05"]
    monkeypatch.setattr(sys, "argv", ["generate", *paths, *fixed, *flags])
    status = generate.main()
    text = (folder / "out.jsonl").read_text() if (folder / "out.jsonl").exists() else ""
    return status, [json.loads(line) for line in text.split("\n") if line]


def test_good_rows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    status, results = run(monkeypatch, tmp_path, [json.dumps({"id": "a\u2028b", **CASE.fields}, ensure_ascii=False)])
    assert status == 0
    assert list(results[0]) == ["id", "token_ids", "text", "finish_reason", "nfe", "forwards", "trace"]
    assert results[0]["id"] == "a\u2028b"
    assert (results[0]["token_ids"], results[0]["nfe"], results[0]["text"]) == (CASE.tokens, CASE.nfe, None)


def test_a_bad_row_gets_its_error_and_the_rest_go_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lines = [
        "{not json",
        json.dumps({"id": 1, "mode": "ar", "prompt_ids": [1], "lora": True}),
        json.dumps({"id": 2, "mode": "ar", "prompt": "text"}),
        json.dumps({"id": 3, **CASE.fields}),
    ]
    status, results = run(monkeypatch, tmp_path, lines)
    assert status == 1
    assert [set(r) == {"id", "error"} for r in results] == [True, True, True, False]
    assert "--lora DIR" in str(results[1]["error"])
    assert "no tokenizer" in str(results[2]["error"])
    assert results[3]["nfe"] == CASE.nfe


def test_nothing_starts_without_an_input(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(
        sys, "argv", ["generate", "--model", "nowhere/", "--input", "no", "--output", str(tmp_path / "o")]
    )
    assert generate.main() == 2
