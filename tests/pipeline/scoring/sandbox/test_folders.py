"""Folders of programs: one of a killed process is removed by the next that scores, one in use is not."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from trimode.core.project import child_environment
from trimode.pipeline.benchmarks import load_benchmark
from trimode.pipeline.scoring import ScoringPool
from trimode.pipeline.scoring.sandbox.folders import remove_left, sandbox_folder

HOLD = """import sys
from trimode.pipeline.scoring.sandbox.folders import sandbox_folder
with sandbox_folder() as folder:
    (folder / "program.py").write_text("1")
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_folder_in_use_stays_and_is_removed_at_its_end(temporary: Path) -> None:
    with sandbox_folder() as folder:
        (folder / "program.py").write_text("1")
        remove_left()
        assert (folder / "program.py").exists() and folder.parent == temporary
    assert list(temporary.iterdir()) == []


@pytest.mark.process
def test_what_a_killed_process_left_is_removed_by_the_next_pool(temporary: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD],
        env=child_environment(TMPDIR=str(temporary)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    folder = Path(process.stdout.readline().strip())
    remove_left()
    assert folder.parent == temporary and folder.exists(), "a process uses it"
    process.kill()
    process.communicate()
    assert folder.exists()
    with ScoringPool(load_benchmark("demo-code"), None, 1):
        pass
    assert not folder.exists()
