"""The compare command: what it pairs, what it prints, its exit statuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from trimode.pipeline.compare.__main__ import main
from trimode.tests.fakes.run_folders import FakeRun, demo_sweep, write_run


def test_every_mode_stands_against_ar_by_default(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    demo_sweep(tmp_path, samples=8)
    assert main([str(tmp_path), "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)["comparisons"]
    assert [(c["a"], c["b"]) for c in found] == [("dlm", "ar"), ("linear_spec", "ar"), ("linear_spec+lora", "ar")]
    assert [c["same_text_expected"] for c in found] == [False, True, True]
    assert found[1]["pooled"]["num_identical"] == found[1]["pooled"]["num_answers"] == 32


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
