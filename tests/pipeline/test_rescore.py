"""Scoring existing generations again: what is rewritten, what is kept, and what is said."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from trimode.core.processes import ProcessId, process_id
from trimode.pipeline import rescore
from trimode.pipeline.benchmarks import Benchmark, load_benchmark
from trimode.pipeline.launch.owner import Owner, claim, read_owner, this_process
from trimode.pipeline.rescore import main
from trimode.pipeline.run_folder.paths import RunPaths
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


def owned_by(run_dir: Path, *processes: ProcessId, host: str | None = None) -> Path:
    """A run folder of somebody else with one file of outputs."""
    owner = dataclasses.replace(this_process(), processes=processes)
    claim(run_dir, dataclasses.replace(owner, host=host or owner.host))
    path = RunPaths(run_dir).output("mmlu", 0)
    write(path, [choice("Answer: A", predicted_answer="B", symbolic_correct=False)])
    return path


def test_a_folder_whose_job_runs_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    init = process_id(1)
    assert init is not None
    path = owned_by(tmp_path / "run", init)
    before = path.read_bytes()
    for extra in ([], ["--take-over"]):
        for folder in (tmp_path, path.parent):
            assert main([str(folder), "--num-processes", "1", *extra]) == 2
    assert path.read_bytes() == before
    assert "belongs to process 1 on" in capsys.readouterr().err


def test_a_folder_without_a_living_owner_is_owned_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = owned_by(tmp_path / "run", ProcessId(pid=2**22 - 1, started=1))
    seen: list[Owner | None] = []
    monkeypatch.setattr(rescore, "check_scorer", lambda *_: seen.append(read_owner(tmp_path / "run")))
    assert main([str(path.parent), "--num-processes", "1"]) == 0
    assert seen[0] is not None and seen[0].processes == this_process().processes
    assert read_owner(tmp_path / "run") is None
    assert read(path)[0]["symbolic_correct"] is True


def test_an_owner_on_a_host_that_is_gone_is_replaced_on_request(tmp_path: Path) -> None:
    owned_by(tmp_path / "run", ProcessId(pid=1, started=1), host="gone")
    assert main([str(tmp_path), "--num-processes", "1"]) == 2
    assert main([str(tmp_path), "--num-processes", "1", "--take-over"]) == 0


def test_a_file_that_another_program_writes_meanwhile_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mmlu" / "output.jsonl"
    write(path, [choice("Answer: A")])
    honest = rescore.new_metrics

    def slow(benchmark: Benchmark, files: Sequence[rescore.Rescored]) -> dict[str, Any]:
        with path.open("a") as file:
            file.write(json.dumps(choice("Answer: B")) + "\n")
        return honest(benchmark, files)

    monkeypatch.setattr(rescore, "new_metrics", slow)
    assert main([str(tmp_path), "--num-processes", "1"]) == 2
    assert len(read(path)) == 2
    assert not (tmp_path / "mmlu" / "metrics.json").exists()


ODD = [
    b"{}",
    b"null",
    b"[]",
    b"3",
    b'"text"',
    b'{"generation": null, "expected_answer": "A"}',
    b'{"generation": ["Answer: A"], "expected_answer": "A"}',
    b'{"expected_answer": "A", "symbolic_correct": null, "predicted_answer": null}',
    b'{"expected_answer": "A", "symbolic_correct": NaN, "predicted_answer": ["A"]}',
    b'{"expected_answer": "A", "error": "no"}',
    b'{"generation": "Answer: B \\ud83d", "expected_answer": "A"}',
    b'{"generation": "Answer: B \xc3\xa9 \\ud83d", "expected_answer": "A", "k\\udc80": 1}',
    b'{"generation": "Answer: B \xff", "expected_answer": "A"}',
    b'{"generation": "Answer: B \xed\xa0\xbd", "expected_answer": "A"}',
]
COUNTED_WRONG = [
    *("null", "true", "[1]", '"8"', "NaN", "Infinity", "-1", "1" + "0" * 400),
]


def test_rows_of_any_kind_count_as_no_answer_and_cost_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mmlu" / "output-rs0.jsonl"
    path.parent.mkdir()
    good = json.dumps(choice("Answer: A")).encode()
    counts = [
        good.replace(b'"num_generated_tokens": 1', f'"num_generated_tokens": {n}'.encode()) for n in COUNTED_WRONG
    ]
    path.write_bytes(b"\xef\xbb\xbf" + b"\n".join([good, *ODD, *counts]) + b"\n")
    assert main([str(tmp_path), "--num-processes", "1"]) == 0
    lines = path.read_bytes().splitlines()
    assert lines[1:6] == ODD[:5]
    assert len(lines) == 1 + len(ODD) + len(counts)
    assert all(json.loads(line)["symbolic_correct"] for line in (lines[0], *lines[-len(counts) :]))
    metrics = json.loads((tmp_path / "mmlu" / "metrics.json").read_text())["mmlu"]["pass@1"]
    assert metrics["num_entries"] == len(lines)
    assert metrics["symbolic_correct"] == 100.0 * (1 + len(counts)) / len(lines)
    capsys.readouterr()
    before = path.read_bytes()
    assert main([str(tmp_path), "--num-processes", "1"]) == 0
    assert path.read_bytes() == before
    assert "0 verdicts changed" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["demo-if", "mbpp", "demo-code", "gsm8k"])
def test_rows_without_anything_count_as_wrong_in_every_scorer(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rescore, "check_scorer", lambda *_: None)
    benchmark = load_benchmark(name)
    path = tmp_path / name / "output-rs0.jsonl"
    path.parent.mkdir()
    path.write_text('{}\nnull\n{"instruction_id_list": 3, "error": "no"}\n')
    assert main([str(tmp_path), "--num-processes", "1"]) == 0
    metrics = json.loads((tmp_path / name / "metrics.json").read_text())[name]["pass@1"]
    assert (metrics[benchmark.metric], metrics.get("num_entries")) == (0, 3)


@pytest.mark.parametrize("text", ["null", "[]", '{"mmlu": null}', '{"mmlu": {"pass@1": []}}', "\ufeff{}", "{torn", "7"])
def test_a_damaged_metrics_file_is_written_anew(tmp_path: Path, text: str) -> None:
    write(tmp_path / "mmlu" / "output.jsonl", [choice("Answer: A")])
    (tmp_path / "mmlu" / "metrics.json").write_text(text)
    assert main([str(tmp_path), "--num-processes", "1"]) == 0
    metrics = json.loads((tmp_path / "mmlu" / "metrics.json").read_text())
    assert metrics["mmlu"]["pass@1"]["symbolic_correct"] == 100.0


@pytest.mark.parametrize("line", ['{"a": ' + "1" * 5000 + "}", "[" * 100_000, '{"a": ' + "[" * 5000 + "]" * 5000 + "}"])
def test_a_line_that_is_no_json_is_named_and_nothing_is_written(
    tmp_path: Path, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mmlu" / "output.jsonl"
    write(path, [choice("Answer: A")])
    with path.open("a") as file:
        file.write(line + "\n")
    before = path.read_bytes()
    assert main([str(tmp_path), "--num-processes", "1"]) == 2
    assert path.read_bytes() == before
    assert "line 2 is no JSON row" in capsys.readouterr().err


def test_metrics_count_the_answers_that_could_not_be_scored_anew(tmp_path: Path) -> None:
    folder = tmp_path / "mmlu"
    write(folder / "output-rs0.jsonl", [choice("Answer: A", scoring_error="crashed"), choice("", error="refused")])
    (folder / "metrics.json").write_text(json.dumps({"unscored": 1, "failed": 0, "tpf": 2.0}))
    assert main([str(tmp_path), "--num-processes", "1"]) == 0
    metrics = json.loads((folder / "metrics.json").read_text())
    assert (metrics["unscored"], metrics["failed"], metrics["tpf"]) == (0, 1, 2.0)


def test_a_subset_with_a_number_as_its_name_stays_in_the_metrics(tmp_path: Path) -> None:
    folder = tmp_path / "mmlu"
    write(folder / "output-rs0.jsonl", [choice("Answer: A", subset_for_metrics=7), choice("Answer: A")])
    assert main([str(tmp_path), "--num-processes", "1"]) == 0
    assert "mmlu-7" in json.loads((folder / "metrics.json").read_text())
