"""A job whose disk fills up leaves its marker without a traceback, and the same job completes when there is space."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from trimode.pipeline.run_folder.nfe import read_nfe_log
from trimode.pipeline.run_folder.paths import RunPaths
from trimode.pipeline.run_folder.rows import read_output
from trimode.tests.fakes.file_systems import Mount, fill
from trimode.tests.fakes.specs import job_spec, start_job, task_spec, write_data

pytestmark = pytest.mark.process


@pytest.mark.parametrize("moment", ["serving at", "/40"])
def test_a_job_on_a_full_disk_leaves_its_marker_and_goes_on_later(tmp_path: Path, mount: Mount, moment: str) -> None:
    disk = mount("size=1m")
    write_data(tmp_path / "data", 40)
    spec = dataclasses.replace(job_spec(tmp_path, (task_spec(),)), run_dir=str(disk / "run"))
    paths = RunPaths(Path(spec.run_dir))
    job = start_job(spec, tmp_path, {"delay_s": 0.2})
    assert job.stdout is not None
    assert any(moment in line for line in job.stdout)
    filler = fill(disk) / "fill"
    said, _ = job.communicate(timeout=60)
    assert job.returncode != 0
    assert "No space left on device" in paths.failed(0).read_text(), said
    assert not paths.completed(0).exists()
    filler.unlink()
    again = start_job(spec, tmp_path)
    said, _ = again.communicate(timeout=60)
    assert again.returncode == 0, said
    assert paths.completed(0).exists() and not paths.failed(0).exists()
    assert len(read_output(paths, "gsm8k", 0)) == len(read_nfe_log(paths.nfe_log(0))) == 40
    assert not list(paths.run_dir.rglob("*.reserve"))
