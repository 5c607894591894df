"""Where the project lies, and the environment of its child processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from trimode.core.project import ASSETS_DIR, BENCHMARK_DIR, IMPORT_DIR, child_environment, import_dir


def test_the_folders_are_there() -> None:
    assert (ASSETS_DIR / "demo_model").is_dir()
    assert (BENCHMARK_DIR / "gsm8k.yaml").is_file()


@pytest.mark.process
def test_a_child_imports_the_project_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    (tmp_path / "yaml.py").write_text("raise ImportError('of the current folder')", encoding="utf-8")
    code = "import trimode.pipeline.benchmarks"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=child_environment(), check=True)


def test_entries_of_the_path_are_made_absolute_and_unique(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(("here", str(IMPORT_DIR), "", "here")))
    assert child_environment()["PYTHONPATH"].split(os.pathsep) == [str(IMPORT_DIR), str(tmp_path / "here")]


def test_a_checkout_is_imported_through_its_link(tmp_path: Path) -> None:
    (tmp_path / ".types").mkdir()
    (tmp_path / ".types" / "trimode").symlink_to("..")
    assert import_dir(tmp_path) == tmp_path / ".types"


def test_an_installed_project_is_imported_from_the_folder_around_it(tmp_path: Path) -> None:
    assert import_dir(tmp_path / "trimode") == tmp_path


def test_changes_win_and_the_rest_is_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEPT", "1")
    monkeypatch.setenv("CHANGED", "1")
    environment = child_environment(CHANGED="2")
    assert (environment["KEPT"], environment["CHANGED"], environment["PYTHONSAFEPATH"]) == ("1", "2", "1")
