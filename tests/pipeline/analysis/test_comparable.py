"""What the table says about runs that should not be compared."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from trimode.pipeline.analysis.comparable import differences, mixed_code
from trimode.pipeline.analysis.runs import read_run, read_sweep
from trimode.tests.fakes.run_folders import FakeRun, demo_sweep, write_run


def test_modes_of_one_sweep_do_not_differ(tmp_path: Path) -> None:
    assert differences(read_sweep(demo_sweep(tmp_path, samples=3))[0]) == []


def _set_weights(manifest: dict[str, Any]) -> None:
    manifest["weights_sha256"] = "e" * 64


def _set_prompt(manifest: dict[str, Any]) -> None:
    manifest["prompts"]["demo-math"] = "e" * 64


def _set_data(manifest: dict[str, Any]) -> None:
    manifest["data"]["demo-math"]["sha256"] = "e" * 64


def _set_version(manifest: dict[str, Any]) -> None:
    manifest["jobs"]["0"]["versions"]["torch"] = "eeee"


def _set_temperature(manifest: dict[str, Any]) -> None:
    manifest["jobs"]["0"]["config"]["decode"]["temperature"] = 0.7


def _set_dtype(manifest: dict[str, Any]) -> None:
    manifest["jobs"]["0"]["dtype"] = "float32"


def _set_quantization(manifest: dict[str, Any]) -> None:
    manifest["jobs"]["0"]["quantization"] = "fp8"


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        (_set_weights, "weights sha256"),
        (_set_prompt, "prompts sha256 of demo-math"),
        (_set_data, "data sha256 of demo-math"),
        (_set_version, "version of torch"),
        (_set_temperature, "temperature"),
        (_set_dtype, "dtype"),
        (_set_quantization, "quantization"),
    ],
)
def test_each_pinned_fact_is_compared(tmp_path: Path, change: Callable[[dict[str, Any]], None], fact: str) -> None:
    write_run(tmp_path, FakeRun())
    path = write_run(tmp_path, FakeRun(mode="dlm")) / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    (line,) = differences(read_sweep(tmp_path)[0])
    assert line.startswith(f"{fact} differs: ")
    assert "in ar" in line
    assert "in dlm" in line


@pytest.mark.parametrize(("fake", "fact"), [({"seeds": 2}, "seeds"), ({"samples": 9}, "number of problems")])
def test_other_seeds_and_other_problems_are_said(tmp_path: Path, fake: dict[str, int], fact: str) -> None:
    write_run(tmp_path, FakeRun())
    write_run(tmp_path, FakeRun(mode="dlm", **fake))  # type: ignore[arg-type]
    lines = differences(read_sweep(tmp_path)[0])
    assert any(line.startswith(f"{fact} of demo-math differs") for line in lines)


def test_block_length_belongs_to_a_mode(tmp_path: Path) -> None:
    write_run(tmp_path, FakeRun(mode="dlm"))
    path = write_run(tmp_path, FakeRun(mode="dlm", salt="_b8")) / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["jobs"]["0"]["config"]["decode"]["block_length"] = 8
    path.write_text(json.dumps(manifest))
    runs = read_sweep(tmp_path)[0]
    assert any("block_length of dlm differs" in line for line in differences(runs))


def test_parts_of_different_code_versions_are_remarked(tmp_path: Path) -> None:
    folder = write_run(tmp_path, FakeRun())
    assert mixed_code(read_run(folder)) == []
    manifest = json.loads((folder / "manifest.json").read_text())
    runs = [{"start": "2026-11-01T10:00:00", "git_commit": "d" * 40}, {"start": "2026-11-02T10:00:00"}]
    manifest["jobs"]["0"]["runs"] = [*runs, {"start": "2026-11-03T10:00:00", "git_commit": "c" * 40 + "+changes"}]
    manifest["jobs"]["0"]["git_commit"] = "c" * 40 + "+changes"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (line,) = mixed_code(read_run(folder))
    assert "dddddddddddd (job 0 from 2026-11-01T10:00:00)" in line
    assert "cccccccccccc+changes (job 0 from 2026-11-03T10:00:00)" in line


def test_jobs_of_different_code_versions_are_remarked(tmp_path: Path) -> None:
    folder = write_run(tmp_path, FakeRun())
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["jobs"]["1"] = manifest["jobs"]["0"] | {"git_commit": "e" * 40}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (line,) = mixed_code(read_run(folder))
    assert "cccccccccccc (job 0); eeeeeeeeeeee (job 1)" in line
