"""The manifest: what it records, what it refuses to mix, and that several jobs may write it."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from trimode.core.errors import ConfigError
from trimode.pipeline.run_folder.manifest import Manifest
from trimode.pipeline.run_folder.paths import RunPaths
from trimode.pipeline.run_folder.provenance import data_sha256
from trimode.tests.fakes.specs import job_spec
from trimode.tests.fakes.worker import worker_info

pytestmark = pytest.mark.process

PROMPTS = {"gsm8k": "p0"}
DATA = {"gsm8k": {"sha256": "d0", "num_rows": 3}}
WORKERS = [worker_info()]


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
    manifest.close("completed")
    written = read(tmp_path)
    assert (written["weights_sha256"], written["prompts"], written["data"]) == ("w0", PROMPTS, DATA)
    assert written["identity"] == {"model": "fake"}
    jobs = written["jobs"]
    assert isinstance(jobs, dict)
    job = jobs["0"]
    assert job["config"]["decode"]["mode"] == "linear_spec"
    assert job["devices"] == ["cpu"]
    assert "python" in job["versions"]
    assert job["runs"][0]["status"] == "completed"
    assert job["runs"][0]["end"] >= job["runs"][0]["start"]


def test_every_start_is_one_run(tmp_path: Path) -> None:
    for status in ("failed", "completed"):
        manifest = manifest_in(tmp_path)
        manifest.open(PROMPTS, DATA)
        manifest.close(status)
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
