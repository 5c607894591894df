"""The report command: formats, files, remarks, exit statuses."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest
from trimode.pipeline.analysis.runs import find_run_folders
from trimode.pipeline.analysis.summary import JSON_FIELDS
from trimode.pipeline.report.__main__ import FORMATS, main
from trimode.pipeline.run_folder.paths import RunPaths
from trimode.tests.fakes.run_folders import FakeRun, demo_sweep, write_run


def test_json_is_all_that_stdout_gets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    demo_sweep(tmp_path, samples=6)
    assert main([str(tmp_path), "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 16
    assert all(tuple(row) == JSON_FIELDS for row in rows)
    assert not (tmp_path / "report.html").exists()


def test_csv_has_a_line_per_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    demo_sweep(tmp_path, samples=6)
    main([str(tmp_path), "--format", "csv"])
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(rows) == 16
    assert rows[0]["acceptance_length"] == ""


def test_markdown_is_one_table_with_means(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    demo_sweep(tmp_path, samples=6)
    main([str(tmp_path), "--format", "markdown"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + 16 + 4
    assert len({line.count("|") for line in lines}) == 1
    assert lines[-1].startswith("| mean of 4 | linear_spec+lora |")


def test_the_table_comes_with_the_page_and_its_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path, FakeRun())
    assert main([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "demo-math" in out
    assert f"report: {tmp_path / 'report.html'}" in out
    assert (tmp_path / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert (tmp_path / "report.md").read_text(encoding="utf-8").startswith("| Benchmark |")


def test_runs_of_an_earlier_sweep_in_the_same_folder_are_said_to_be_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [str(folder) for folder in find_run_folders(demo_sweep(tmp_path, samples=6))]
    assert main([*runs[:1], "--html", str(tmp_path / "report.html")]) == 0
    note = f"{len(runs) - 1} more runs below {tmp_path} are left out; `python -m trimode.pipeline.report {tmp_path}`"
    assert note in capsys.readouterr().err
    assert f"{len(runs) - 1} more runs below" in (tmp_path / "report.html").read_text(encoding="utf-8")
    main([*runs[1:], "--html", str(tmp_path / "report.html")])
    assert f"1 more run below {tmp_path} is left out" in capsys.readouterr().err
    assert main([str(tmp_path)]) == 0
    assert "left out" not in capsys.readouterr().err


def test_the_table_fits_eighty_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    demo_sweep(tmp_path, samples=6)
    main([str(tmp_path), "--no-html"])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


@pytest.mark.parametrize("arguments", [["absent"], ["empty"]])
def test_no_runs_is_exit_2_with_the_folder_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    (tmp_path / "empty").mkdir()
    assert main([str(tmp_path / arguments[0])]) == 2
    assert arguments[0] in capsys.readouterr().err


def test_a_run_without_rows_yet_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = RunPaths(write_run(tmp_path, FakeRun(samples=1)))
    paths.output("demo-math", 0).unlink()
    assert main([str(tmp_path)]) == 0
    assert "No scored answers yet" in capsys.readouterr().out


def test_a_run_that_failed_before_its_first_answer_differs_from_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path, FakeRun())
    failed = RunPaths(write_run(tmp_path, FakeRun(model="other", samples=1)))
    failed.output("demo-math", 0).unlink()
    failed.manifest.write_text(json.dumps({**json.loads(failed.manifest.read_text()), "weights_sha256": None}))
    main([str(tmp_path)])
    captured = capsys.readouterr()
    assert "differs" not in captured.err
    assert "ar (" not in captured.out


@pytest.mark.parametrize("style", ["table", "markdown", "csv", "json"])
def test_every_format_counts_samples_without_an_answer_and_scorer_failures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], style: str
) -> None:
    paths = RunPaths(write_run(tmp_path, FakeRun(samples=10)))
    output = paths.output("demo-math", 0)
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    for row in rows[:7]:
        row["scoring_error"] = "timed out"
    output.write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = [json.loads(line) for line in paths.nfe_log(0).read_text().splitlines()]
    for line in lines[7:]:
        line |= {"finish_reason": "error", "error": "HTTP 400"}
    paths.nfe_log(0).write_text("".join(json.dumps(line) + "\n" for line in lines))
    main([str(tmp_path), "--format", style, "--html", str(tmp_path / "report.html")])
    out = capsys.readouterr().out
    if style == "json":
        assert (json.loads(out)[0]["failed"], json.loads(out)[0]["unscored"]) == (3, 7)
    elif style == "csv":
        (row,) = csv.DictReader(io.StringIO(out))
        assert (row["failed"], row["unscored"]) == ("3", "7")
    else:
        heading, cells = (next(line for line in out.splitlines() if word in line) for word in ("Failed", "demo-math"))
        assert "Unscored" in heading
        assert re.search(r"\b3\b[ |]+\b7\b", cells)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "3 without an answer" in page
    assert "7 could not be scored" in page


@pytest.mark.parametrize("accuracy", [2.0, -1.0])
def test_no_interval_leaves_the_scale(tmp_path: Path, capsys: pytest.CaptureFixture[str], accuracy: float) -> None:
    names = ("demo-math", "demo-mcq", "demo-if")
    for mode in ("ar", "dlm"):
        write_run(tmp_path, FakeRun(mode=mode, samples=5, seeds=3, accuracy=accuracy, benchmarks=names))
    main([str(tmp_path), "--format", "json"])
    for row in json.loads(capsys.readouterr().out):
        assert 0 <= row["accuracy_low"] <= row["accuracy"] <= row["accuracy_high"] <= 100
    main([str(tmp_path), "--format", "markdown", "--html", str(tmp_path / "report.html")])
    table, page = capsys.readouterr().out, (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "±" not in table + page
    ranges = re.findall(r"([\d.]+)\N{EN DASH}([\d.]+)", "".join(re.findall(r"\| mean of 3.*", table)))
    assert len(ranges) == 2
    assert all(0 <= float(low) <= float(high) <= 100 for low, high in ranges)


def test_parts_of_different_code_versions_are_a_note(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_run(tmp_path, FakeRun()) / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["jobs"]["0"]["runs"] = [{"git_commit": commit * 40} for commit in "dc"]
    path.write_text(json.dumps(manifest))
    main([str(tmp_path), "--no-html"])
    assert "parts of this run were made by different versions of the code" in capsys.readouterr().err


def test_an_unfinished_benchmark_says_done_of_total(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path, FakeRun(samples=10, finished=False))
    main([str(tmp_path), "--no-html"])
    captured = capsys.readouterr()
    assert "5/10" in captured.out
    assert "ar demo-math: 5/10" in captured.err


def test_runs_that_are_not_comparable_are_remarked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path, FakeRun())
    folder = write_run(tmp_path, FakeRun(mode="dlm"))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["weights_sha256"] = "f" * 64
    (folder / "manifest.json").write_text(json.dumps(manifest))
    main([str(tmp_path), "--no-html"])
    assert "weights sha256 differs: aaaaaaaaaaaa in ar; ffffffffffff in dlm" in capsys.readouterr().err


def test_two_runs_of_one_mode_have_names_in_every_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = write_run(tmp_path, FakeRun(mode="dlm", block_length=8, benchmarks=("demo-math", "demo-mcq"), salt="_b8"))
    write_run(tmp_path, FakeRun(mode="dlm", benchmarks=("demo-math", "demo-mcq")))
    for style in FORMATS:
        main([str(tmp_path), "--no-html", "--format", style])
        out, err = capsys.readouterr()
        assert out.count("dlm (block 8)") == out.count("dlm (block 32)") >= 2, style
        assert f"note: dlm (block 8) is {short}" in err
        assert style in ("csv", "json") or out.count("mean of 2") >= 1


def test_a_page_that_cannot_be_written_is_exit_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "runs", FakeRun())
    (tmp_path / "file").touch()
    assert main([str(tmp_path / "runs"), "--html", str(tmp_path / "file" / "r.html")]) == 2
    captured = capsys.readouterr()
    again = f"python -m trimode.pipeline.report {tmp_path / 'runs'} --html FILE"
    assert f"name another place: {again}" in captured.err
    assert "demo-math" in captured.out


def test_a_run_of_a_server_stands_beside_ours_without_nfe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path, FakeRun(mode="ar", benchmarks=("demo-math",), samples=6))
    theirs = write_run(tmp_path, FakeRun(mode="ar", benchmarks=("demo-math",), samples=6, model="theirs"))
    for name in ("plan.json", "manifest.json"):
        value = json.loads((theirs / name).read_text())
        job = value["jobs"][0] if name == "plan.json" else value["jobs"]["0"]["config"]
        job["client"]["server"] = {"url": "http://h/v1", "engine": "sglang", "api_key_file": None, "fields": {}}
        (theirs / name).write_text(json.dumps(value))
    log = theirs / "nfe_group0" / "nfe_log.jsonl"
    lines = [
        json.loads(line) | {"nfe": None, "forwards": {}, "acceptance_lengths": []}
        for line in log.read_text().splitlines()
    ]
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main([str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    (row,) = [line for line in out.splitlines() if "ar@sglang" in line]
    assert row.count("\N{EN DASH}") == 4  # the interval of the accuracy, NFE, TPF and acceptance
    assert "engine differs: trimode in ar; sglang in ar@sglang" in err
    assert "weights sha256 differs" not in err
    assert (tmp_path / "report.html").exists()
