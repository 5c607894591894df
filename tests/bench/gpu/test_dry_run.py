"""The whole measurement runs without a GPU: the same code and the same files as on one, at a tiny size."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from trimode.bench.gpu.records import Note, Record
from trimode.bench.gpu.report import DRY_RUN
from trimode.bench.gpu.sections import SECTIONS
from trimode.core.project import PROJECT_DIR
from trimode.kernels.cuda import runtime

SCRIPT = PROJECT_DIR / "bench" / "gpu.sh"
EXPECTED = {
    "tests passed", "copy rate", "matmul rate", "rms_norm", "silu_mul", "rope and store", "best_token", "draw",
    "low_rank", "confidence_commit", "prefix_verify", "paged_attention", "linear", "linear crossover", "step",
    "tokens/s", "transformers eager step", "transformers torch.compile step", "same answers", "same first tokens",
}  # fmt: skip
"""Names of records that every run gives."""


def gpu_sh(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ) | {"PYTHON": sys.executable}
    return subprocess.run(["bash", str(SCRIPT), *arguments], capture_output=True, text=True, env=environment)


def content(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "gpu.json").read_text())
    return found


@pytest.mark.process
@pytest.mark.slow
def test_everything_runs_dry(tmp_path: Path) -> None:
    done = gpu_sh("--dry-run", "--out", str(tmp_path), "--total", "5000")
    assert done.returncode == 0, done.stdout + done.stderr
    found = content(tmp_path)
    assert found["dry_run"] is True
    assert [(section["name"], section["status"]) for section in found["sections"]] == [
        (section.name, "done") for section in SECTIONS
    ]
    records = [Record(**record) for record in found["records"]]
    notes = [Note(**note) for note in found["notes"]]
    assert {record.name for record in records} >= EXPECTED
    assert [note for note in notes if note.kind in ("cut", "failure")] == []
    assert all(record.value >= 0 for record in records)
    (kernels,) = [note.text for note in notes if note.text.startswith("kernels: ")]
    assert "rms_norm: cuda, sm_90" in kernels or runtime.triton is None
    assert all(goal["met"] is None for goal in found["goals"])
    lines = done.stdout.splitlines()
    assert lines[0] == DRY_RUN
    assert DRY_RUN in lines[-2]
    page = (tmp_path / "gpu.md").read_text()
    assert DRY_RUN in page
    assert "not judged: dry run" in page
    assert "| met |" not in page
    assert "missed" not in page


@pytest.mark.process
@pytest.mark.slow
def test_what_is_cut_is_named(tmp_path: Path) -> None:
    gpu_sh("--dry-run", "--out", str(tmp_path), "--only", "ceilings", "--total", "0.1")
    found = content(tmp_path)
    assert [note for note in found["notes"] if note["kind"] == "cut"]
    assert not [record for record in found["records"] if record["name"] == "copy rate"]


@pytest.mark.process
@pytest.mark.slow
def test_without_a_gpu_it_says_so_and_goes_on(tmp_path: Path) -> None:
    if runtime.triton is not None and not runtime.is_interpreter():
        pytest.skip("a GPU is there")
    done = gpu_sh("--out", str(tmp_path), "--only", "ceilings", "demo")
    assert done.returncode == 1
    assert "no GPU is visible" in done.stderr
    assert [section["status"] for section in content(tmp_path)["sections"]] == ["failed", "failed"]
    assert "not measured" in (tmp_path / "gpu.md").read_text()
