"""Scoring existing generations again: what is rewritten, what is kept, and what is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from trimode.pipeline.rescore import main
from trimode.tests.goldens import HEADS, value

pytestmark = pytest.mark.process


def choice(generation: str, **more: Any) -> dict[str, Any]:
    return {"generation": generation, "expected_answer": "A", "num_generated_tokens": 1, **more}


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return text


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_wrong_verdicts_are_put_right_in_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "eval-results" / "mmlu" / "output-rs0.jsonl"
    write(path, [choice("Answer: A", predicted_answer="B", symbolic_correct=False, kept=1), choice("none")])
    assert main([str(tmp_path), "--num-processes", "1"]) == 0
    first, second = read(path)
    assert list(first) == [
        "generation",
        "expected_answer",
        "num_generated_tokens",
        "predicted_answer",
        *list(first)[4:],
    ]
    assert (first["predicted_answer"], first["symbolic_correct"], first["kept"]) == ("A", True, 1)
    assert (second["predicted_answer"], second["symbolic_correct"]) == (None, False)
    said = capsys.readouterr().out
    assert "2 rows, 2 verdicts changed" in said
    assert 'row 1: predicted_answer "B" -> "A", symbolic_correct false -> true' in said
    assert "metrics.json: symbolic_correct (none) -> 50.00 %" in said


def test_right_verdicts_keep_their_bytes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mmlu" / "output.jsonl"
    text = write(path, [choice("Answer: A ü", predicted_answer="A", symbolic_correct=True)])
    assert main([str(tmp_path / "mmlu"), "--num-processes", "1"]) == 0
    assert path.read_text() == text
    assert "1 rows, 0 verdicts changed" in capsys.readouterr().out


def test_metrics_keep_keys_of_another_making(tmp_path: Path) -> None:
    folder = tmp_path / "mmlu"
    write(folder / "output-rs0.jsonl", [choice("Answer: A", subset_for_metrics="law")])
    old = {"mmlu": {"pass@1": {"symbolic_correct": 1.0}}, "mmlu-gone": {}, "average_nfe": 7.5, "tpf": 2.0}
    (folder / "metrics.json").write_text(json.dumps(old))
    assert main([str(tmp_path), "--num-processes", "1"]) == 0
    new = json.loads((folder / "metrics.json").read_text())
    assert list(new) == ["mmlu", "mmlu-law", "average_nfe", "tpf"]
    assert (new["mmlu"]["pass@1"]["symbolic_correct"], new["average_nfe"]) == (100.0, 7.5)


def test_rows_without_a_generation_stay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mmlu" / "output.jsonl"
    text = write(path, [{"expected_answer": "A", "predicted_answer": "A", "symbolic_correct": True}])
    assert main([str(tmp_path), "--num-processes", "1"]) == 0
    assert path.read_text() == text
    assert "1 rows have no 'generation'" in capsys.readouterr().out


def test_unfinished_chunks_are_scored_but_are_no_seed(tmp_path: Path) -> None:
    folder = tmp_path / "mmlu"
    write(folder / "output-rs0.jsonl", [choice("Answer: A")])
    write(folder / "output-rs1_chunk_0.jsonl", [choice("Answer: B"), choice("Answer: A")])
    assert main([str(tmp_path), "--num-processes", "1"]) == 0
    assert [row["symbolic_correct"] for row in read(folder / "output-rs1_chunk_0.jsonl")] == [False, True]
    assert json.loads((folder / "metrics.json").read_text())["mmlu"]["pass@1"]["num_entries"] == 1


def test_folders_of_other_names_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "notes" / "output.jsonl", [choice("Answer: A")])
    assert main([str(tmp_path)]) == 0
    assert "'notes' is no benchmark" in capsys.readouterr().err


@pytest.mark.parametrize("content", [None, "{torn"])
def test_what_cannot_be_read_is_the_users_error(
    tmp_path: Path, content: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / "mmlu").mkdir()
        (tmp_path / "mmlu" / "output.jsonl").write_text(content)
    assert main([str(tmp_path)]) == 2
    assert "error: " in capsys.readouterr().err


def test_missing_data_is_the_users_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "livecodebench" / "output.jsonl", [choice("x", task_id="1")])
    assert main([str(tmp_path), "--data-dir", str(tmp_path / "none")]) == 2
    assert "prepare livecodebench" in capsys.readouterr().err


def test_real_outputs_do_not_change(tmp_path: Path) -> None:
    sources = sorted((HEADS / "math_eval" / "math-500").iterdir())
    folder = tmp_path / "math-500"
    folder.mkdir()
    for source in sources:
        (folder / source.name).write_bytes(source.read_bytes())
    assert main([str(tmp_path), "--num-processes", "2"]) == 0
    assert [(folder / source.name).read_bytes() for source in sources] == [source.read_bytes() for source in sources]
    assert json.loads((folder / "metrics.json").read_text()) == value("math_eval/metrics_max_samples_50.json")
