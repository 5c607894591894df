"""How several runs of one mode are told apart."""

from __future__ import annotations

import shutil
from pathlib import Path

from trimode.pipeline.analysis.run_names import run_names
from trimode.pipeline.analysis.runs import read_sweep
from trimode.tests.fakes.run_folders import FakeRun, write_run


def names(root: Path) -> list[str]:
    return sorted(run_names(read_sweep(root)[0]))


def test_the_only_run_of_a_mode_is_named_by_it(tmp_path: Path) -> None:
    write_run(tmp_path, FakeRun())
    write_run(tmp_path, FakeRun(mode="dlm"))
    assert names(tmp_path) == ["ar", "dlm"]


def test_runs_of_one_mode_are_named_by_what_differs(tmp_path: Path) -> None:
    write_run(tmp_path, FakeRun())
    for length in (8, 16):
        write_run(tmp_path, FakeRun(mode="dlm", block_length=length, salt=f"_b{length}"))
    assert names(tmp_path) == ["ar", "dlm (block 16)", "dlm (block 8)"]


def test_no_more_settings_are_named_than_needed(tmp_path: Path) -> None:
    for length, temperature in ((8, 0.0), (16, 0.7)):
        fake = FakeRun(mode="dlm", block_length=length, temperature=temperature, salt=f"_b{length}")
        write_run(tmp_path, fake)
    assert names(tmp_path) == ["dlm (block 16)", "dlm (block 8)"]
    write_run(tmp_path, FakeRun(mode="dlm", block_length=16, salt="_greedy"))
    assert names(tmp_path) == [
        "dlm (block 16, temperature 0)",
        "dlm (block 16, temperature 0.7)",
        "dlm (block 8)",
    ]


def test_two_models_are_named_first(tmp_path: Path) -> None:
    write_run(tmp_path, FakeRun(model="small", block_length=8))
    write_run(tmp_path, FakeRun(model="large"))
    assert names(tmp_path) == ["ar (large)", "ar (small)"]


def test_runs_with_the_same_settings_are_named_by_their_folders(tmp_path: Path) -> None:
    write_run(tmp_path, FakeRun())
    write_run(tmp_path, FakeRun(salt="_r2"))
    assert names(tmp_path) == ["ar (eval_demo_model)", "ar (eval_demo_model_r2)"]
    shutil.copytree(tmp_path / "exp_ar", tmp_path / "other")
    assert "ar (eval_demo_model, exp_ar)" in names(tmp_path)
    assert "ar (eval_demo_model, other)" in names(tmp_path)


def test_a_run_without_settings_is_named_by_its_folder(tmp_path: Path) -> None:
    write_run(tmp_path, FakeRun())
    bare = write_run(tmp_path, FakeRun(salt="_bare", block_length=8))
    for name in ("manifest.json", "plan.json"):
        (bare / name).unlink()
    assert len(set(names(tmp_path))) == 2
