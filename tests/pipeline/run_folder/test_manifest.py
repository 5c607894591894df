"""The manifest: what it records, what it refuses to mix, and that several jobs may write it."""

from __future__ import annotations

import json
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
from trimode.core.errors import ConfigError
from trimode.core.files import write_json_atomic
from trimode.pipeline.run_folder import manifest as manifest_module
from trimode.pipeline.run_folder.manifest import Manifest
from trimode.pipeline.run_folder.paths import RunPaths
from trimode.pipeline.run_folder.provenance import data_sha256, git_commit
from trimode.tests.fakes.specs import job_spec
from trimode.tests.fakes.worker import worker_info

pytestmark = pytest.mark.process

PROMPTS = {"gsm8k": "p0"}
DATA = {"gsm8k": {"sha256": "d0", "num_rows": 3}}
QUANTIZED: dict[str, Any] = {
    "quantization": "fp8",
    "quantized": ["encoder.layers.*.self_attn.o_proj"],
    "weight_bytes": 7,
    "batch_invariant": True,
}
WORKERS = [worker_info(**QUANTIZED)]


def manifest_in(folder: Path, index: int = 0) -> Manifest:
    spec = job_spec(folder, index=index)
    return Manifest(spec, RunPaths(Path(spec.run_dir)))


def read(folder: Path) -> dict[str, object]:
    value = json.loads((folder / "run" / "manifest.json").read_text())
    assert isinstance(value, dict)
    return value


def test_it_records_config_versions_and_hashes(tmp_path: Path) -> None:
    manifest = manifest_in(tmp_path)
    manifest.open(PROMPTS, DATA)
    manifest.add_workers(WORKERS)
    manifest.close("completed", new_samples=3)
    written = read(tmp_path)
    assert (written["weights_sha256"], written["prompts"], written["data"]) == ("w0", PROMPTS, DATA)
    assert written["identity"] == {"model": "fake"}
    jobs = written["jobs"]
    assert isinstance(jobs, dict)
    job = jobs["0"]
    assert job["config"]["decode"]["mode"] == "linear_spec"
    assert job["devices"] == ["cpu"]
    assert {name: job[name] for name in QUANTIZED} == QUANTIZED
    assert "python" in job["versions"]
    assert job["runs"][0]["status"] == "completed"
    assert job["runs"][0]["end"] >= job["runs"][0]["start"]


def test_every_start_is_one_run(tmp_path: Path) -> None:
    for status in ("failed", "completed"):
        manifest = manifest_in(tmp_path)
        manifest.open(PROMPTS, DATA)
        manifest.close(status, new_samples=0)
    jobs = read(tmp_path)["jobs"]
    assert isinstance(jobs, dict)
    assert [run["status"] for run in jobs["0"]["runs"]] == ["failed", "completed"]


@pytest.mark.parametrize(
    ("prompts", "data", "named"),
    [
        ({"gsm8k": "p1"}, DATA, "prompts.gsm8k was p0 and is p1"),
        (PROMPTS, {"gsm8k": {"sha256": "d1", "num_rows": 3}}, "data.gsm8k.sha256 was d0 and is d1"),
    ],
)
def test_other_prompts_or_data_are_refused(
    tmp_path: Path, prompts: dict[str, str], data: dict[str, dict[str, object]], named: str
) -> None:
    manifest_in(tmp_path).open(PROMPTS, DATA)
    before = read(tmp_path)
    with pytest.raises(ConfigError, match=named):
        manifest_in(tmp_path).open(prompts, data)
    assert read(tmp_path) == before


def test_other_weights_are_refused(tmp_path: Path) -> None:
    manifest = manifest_in(tmp_path)
    manifest.open(PROMPTS, DATA)
    manifest.add_workers(WORKERS)
    with pytest.raises(ConfigError, match="weights_sha256 was w0 and is w1"):
        manifest.add_workers([worker_info(weights_sha256="w1")])


def test_another_benchmark_may_join(tmp_path: Path) -> None:
    manifest_in(tmp_path).open(PROMPTS, DATA)
    manifest_in(tmp_path, 1).open({"mmlu": "m"}, {"mmlu": {"sha256": "x", "num_rows": 1}})
    assert read(tmp_path)["prompts"] == {"gsm8k": "p0", "mmlu": "m"}


def test_jobs_of_one_folder_do_not_overwrite_each_other(tmp_path: Path) -> None:
    def write(index: int) -> None:
        manifest_in(tmp_path, index).open({f"b{index}": "p"}, {})

    threads = [threading.Thread(target=write, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    jobs, prompts = read(tmp_path)["jobs"], read(tmp_path)["prompts"]
    assert isinstance(jobs, dict)
    assert isinstance(prompts, dict)
    assert sorted(jobs) == [str(index) for index in range(8)]
    assert len(prompts) == 8


def test_data_hash_sees_values_and_order_but_no_formatting() -> None:
    rows: list[dict[str, object]] = [{"a": 1, "b": "x"}, {"a": 2}]
    assert data_sha256(rows) == data_sha256([{"b": "x", "a": 1}, {"a": 2}])
    assert data_sha256(rows) != data_sha256(rows[::-1])
    assert data_sha256(rows) != data_sha256([{"a": 1, "b": "y"}, {"a": 2}])


def code(monkeypatch: pytest.MonkeyPatch, commit: str, torch: str) -> None:
    monkeypatch.setattr(manifest_module, "git_commit", lambda: commit)
    monkeypatch.setattr(manifest_module, "versions", lambda: {"torch": torch})


def test_a_resume_with_other_code_keeps_the_record_of_the_earlier(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for commit, torch in (("a", "1"), ("b", "2")):
        code(monkeypatch, commit, torch)
        manifest = manifest_in(tmp_path)
        manifest.open(PROMPTS, DATA)
        manifest.add_workers(WORKERS)
        manifest.close("failed", new_samples=0)
    (job,) = read(tmp_path)["jobs"].values()  # type: ignore[attr-defined]
    assert [(run["git_commit"], run["versions"]) for run in job["runs"]] == [
        ("a", {"torch": "1"}),
        ("b", {"torch": "2"}),
    ]
    assert all(run["worker_versions"] == dict(WORKERS[0].versions) for run in job["runs"])
    assert (job["git_commit"], job["versions"]) == ("b", {"torch": "2"})


def test_the_record_of_an_earlier_release_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code(monkeypatch, "b", "2")
    old = {"git_commit": "a", "versions": {"torch": "1"}, "runs": [{"start": "then", "status": "failed"}]}
    write_json_atomic(tmp_path / "run" / "manifest.json", {"jobs": {"0": old}})
    manifest_in(tmp_path).open(PROMPTS, DATA)
    (job,) = read(tmp_path)["jobs"].values()  # type: ignore[attr-defined]
    assert [(run["git_commit"], run["versions"]["torch"]) for run in job["runs"]] == [("a", "1"), ("b", "2")]


@pytest.mark.process
def test_two_versions_of_the_code_never_have_one_name(tmp_path: Path) -> None:
    source = tmp_path / "core" / "a.py"
    source.parent.mkdir()
    source.write_text("1")
    seen = [git_commit(tmp_path)]
    assert seen[0].endswith("+source")
    git = ("git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e")
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "m"]):
        subprocess.run([*git, *command], check=True)
    seen.append(git_commit(tmp_path))
    assert len(seen[1]) == 40
    for text in ("2", "3"):
        source.write_text(text)
        seen.append(git_commit(tmp_path))
    assert seen[2].startswith(f"{seen[1]}+changes.")
    assert len(set(seen)) == 4
