"""The compare command: what it pairs, what it prints, its exit statuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from trimode.pipeline.compare.__main__ import main
from trimode.pipeline.run_folder.paths import RunPaths
from trimode.tests.fakes.run_folders import FakeRun, demo_sweep, write_run


def test_every_mode_stands_against_ar_by_default(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    demo_sweep(tmp_path, samples=8)
    assert main([str(tmp_path), "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)["comparisons"]
    assert [(c["a"], c["b"]) for c in found] == [("dlm", "ar"), ("linear_spec", "ar"), ("linear_spec+lora", "ar")]
    assert [c["same_text_expected"] for c in found] == [False, True, True]
    assert found[1]["pooled"]["num_identical"] == found[1]["pooled"]["num_answers"] == 32


def test_a_run_that_failed_before_its_first_answer_is_no_rival(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path, FakeRun())
    write_run(tmp_path, FakeRun(mode="dlm"))
    failed = RunPaths(write_run(tmp_path, FakeRun(model="other", salt="_failed")))
    failed.output("demo-math", 0).unlink()
    assert main([str(tmp_path)]) == 0
    captured = capsys.readouterr()
    assert "dlm minus ar" in captured.out
    assert "differs" not in captured.err


def test_the_text_lists_flips_with_both_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    demo_sweep(tmp_path, samples=60)
    main([str(tmp_path), "--modes", "dlm", "ar", "--flips", "1000"])
    out = capsys.readouterr().out
    assert "dlm minus ar" in out
    flips = [line for line in out.splitlines() if "(right)" in line]
    assert flips
    assert all("(wrong)" in line and "expected" in line for line in flips)


def test_two_folders_are_paired_by_mode(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    demo_sweep(tmp_path / "one", samples=5)
    write_run(tmp_path / "two", FakeRun(samples=5, accuracy=0.1))
    assert main([str(tmp_path / "one"), str(tmp_path / "two"), "--format", "json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["comparisons"]
    assert (found["a"], found["b"]) == ("a: ar", "b: ar")
    assert [p["benchmark"] for p in found["benchmarks"]] == ["demo-math"]


@pytest.mark.parametrize(
    ("gate", "status", "word"),
    [
        ("linear_spec >= ar - 5", 0, "PASS"),
        ("linear_spec >= ar - 0.01", 3, "INCONCLUSIVE"),
        ("ar >= linear_spec - 5", 0, "PASS"),
        ("dlm >= ar + 90", 1, "REGRESS"),
    ],
)
def test_gates_decide_the_exit_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], gate: str, status: int, word: str
) -> None:
    demo_sweep(tmp_path, samples=30)
    assert main([str(tmp_path), "--gate", gate]) == status
    assert f": {word}\n" in capsys.readouterr().out


def test_a_gate_may_name_the_folders(tmp_path: Path) -> None:
    write_run(tmp_path / "new", FakeRun(samples=200, accuracy=0.2))
    write_run(tmp_path / "old", FakeRun(samples=200, accuracy=0.95))
    assert main([str(tmp_path / "new"), str(tmp_path / "old"), "--gate", "a >= b - 5"]) == 1
    assert main([str(tmp_path / "new"), str(tmp_path / "old"), "--gate", "b >= a - 5"]) == 0


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--modes", "linear_spec", "ar"], "no run is called 'linear_spec'"),
        (["--gate", "quality >= ar"], "no run is called 'quality'"),
        (["--gate", "ar"], "NAME >= NAME"),
        (["--modes", "dlm", "ar", "--benchmarks", "gsm8k"], "share no answered problem"),
        (["--modes", "dlm", "ar", "--gate", "a >= b"], "the gate names a and b"),
    ],
)
def test_what_cannot_be_compared_is_exit_2_and_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], word: str
) -> None:
    write_run(tmp_path, FakeRun())
    write_run(tmp_path, FakeRun(mode="dlm"))
    assert main([str(tmp_path), *arguments]) == 2
    assert word in capsys.readouterr().err


def test_the_adapter_is_found_by_the_bare_name_when_alone(tmp_path: Path) -> None:
    write_run(tmp_path, FakeRun())
    write_run(tmp_path, FakeRun(mode="linear_spec", lora=True))
    assert main([str(tmp_path), "--modes", "linear_spec", "ar"]) == 0


def test_a_name_that_fits_two_runs_is_refused_with_their_folders(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path, FakeRun())
    write_run(tmp_path, FakeRun(salt="_again"))
    write_run(tmp_path, FakeRun(mode="dlm"))
    assert main([str(tmp_path)]) == 2
    assert "eval_demo_model_again" in capsys.readouterr().err
    assert main([str(tmp_path), "--modes", "dlm", "eval_demo_model_again"]) == 0
    assert "dlm minus eval_demo_model_again" in capsys.readouterr().out
    gate = ["--gate", "eval_demo_model_again >= dlm - 90"]
    assert main([str(tmp_path), *gate]) == 0


def fail(folder: Path, ids: range) -> None:
    """Takes the answers of these samples away, in the rows and in the ledger."""
    paths = RunPaths(folder)
    for path in (paths.output("demo-math", 0), paths.nfe_log(0)):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for i in ids:
            lines[i] |= {"error": "HTTP 400", "error_kind": "request", "finish_reason": "error"}
            lines[i] |= {} if path == paths.nfe_log(0) else {"generation": "", "symbolic_correct": False}
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_samples_that_failed_on_both_sides_are_said_and_not_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for mode in ("ar", "linear_spec"):
        fail(write_run(tmp_path, FakeRun(mode=mode, samples=20)), range(5))
    assert main([str(tmp_path), "--format", "json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["comparisons"]
    pooled = found["pooled"]
    assert (pooled["failed_both"], pooled["num_answers"], pooled["num_identical"]) == (5, 15, 15)
    main([str(tmp_path)])
    out = capsys.readouterr().out
    assert "5 samples have no answer on both sides: left out." in out
    assert "Same text in 15 of 15 answers" in out


def test_a_gate_does_not_pass_because_the_other_side_failed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fail(write_run(tmp_path, FakeRun(samples=1000)), range(100))
    write_run(tmp_path, FakeRun(mode="linear_spec", samples=1000))
    assert main([str(tmp_path), "--gate", "linear_spec >= ar - 1"]) == 3
    assert "100 samples that linear_spec answered have no answer of ar: wrong for ar." in capsys.readouterr().out
    assert main([str(tmp_path), "--gate", "ar >= linear_spec - 1"]) == 1


def test_settings_that_cannot_be_read_are_a_note(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path, FakeRun())
    path = write_run(tmp_path, FakeRun(mode="dlm")) / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["jobs"]["0"]["config"]["decode"]["temperature"]
    path.write_text(json.dumps(manifest))
    assert main([str(tmp_path)]) == 0
    assert "the settings of job 0 are damaged" in capsys.readouterr().err
