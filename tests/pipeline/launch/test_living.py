"""A command beside living jobs: what they work on is left out with their ids, the rest is submitted."""

from __future__ import annotations

import dataclasses
import json
import os
import stat
from pathlib import Path

import pytest
from trimode.core.errors import ConfigError, SubmissionError
from trimode.pipeline.launch.call import Launcher
from trimode.pipeline.launch.living import LivingJob, leave_out_living, living_jobs, owners_of, read_plan
from trimode.pipeline.launch.owner import read_owner, this_process
from trimode.pipeline.run_folder.submission import planned
from trimode.pipeline.spec import JobSpec, SampleShare
from trimode.pipeline.sweep import submit
from trimode.tests.fakes.sweeps import config_of, jobs_of

BARE = ("cluster=bare", "model.path=./model", "out_dir=out", "mode=ar")


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with sbatch and squeue in it; the file `states` has a line `id|STATE` for each job squeue knows."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "states").write_text("")
    sbatch = f"""#!/bin/sh
[ ! -e {folder}/refuse ] || {{ echo "sbatch: error: no more" >&2; exit 1; }}
[ ! -e {folder}/refuse-dlm ] || ! grep -q dlm "$1" || {{ echo "sbatch: error: no more" >&2; exit 1; }}
n=$((101 + $(ls {folder} | grep -c '^script'))); cp "$1" {folder}/script$n; echo "Submitted batch job $n"
"""
    scripts = {
        "sbatch": sbatch,
        "srun": "#!/bin/sh\n",
        "squeue": f"#!/bin/sh\necho squeue >>{folder}/asked; cat {folder}/states\n",
    }
    for name, text in scripts.items():
        (folder / name).write_text(text)
        (folder / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    (tmp_path / "model").mkdir()
    return folder


def submitted(cwd: Path, *overrides: str) -> list[tuple[str, list[str], int]]:
    """Slurm id, benchmarks and number of each job of a command."""
    config = config_of(*BARE, *overrides)
    found, _ = submit(config, jobs_of(cwd, *BARE, *overrides), cwd / "out", Launcher(this_process()))
    return [(item.job_id, [task.benchmark for task in item.spec.tasks], item.spec.index) for item in found]


@pytest.mark.process
def test_a_benchmark_is_added_beside_a_living_job(
    tmp_path: Path, slurm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert submitted(tmp_path, "benchmarks=gsm8k") == [("101", ["gsm8k"], 0)]
    (slurm / "states").write_text("101|RUNNING\n")
    assert submitted(tmp_path, "benchmarks='mbpp,gsm8k'") == [("102", ["mbpp"], 1)]
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("ar: gsm8k is left out: Slurm job 101 (RUNNING) works on it in ")
    [run_dir] = (tmp_path / "out").glob("*/hf_base/eval_*")
    owner = read_owner(run_dir)
    assert owner is not None and owner.slurm_jobs == ("101", "102")
    assert [(spec.index, job_id) for spec, job_id in read_plan(run_dir)] == [(0, "101"), (1, "102")]
    (slurm / "states").write_text("101|RUNNING\n102|PENDING\n")
    assert submitted(tmp_path, "benchmarks='mbpp,gsm8k'") == []


@pytest.mark.process
def test_a_failed_chunk_is_redone_while_the_others_run(tmp_path: Path, slurm: Path) -> None:
    flags = ("benchmarks=gsm8k", "num_chunks=3")
    assert [job_id for job_id, _, _ in submitted(tmp_path, *flags)] == ["101_0", "101_1", "101_2"]
    (slurm / "states").write_text("101_0|RUNNING\n101_1|FAILED\n101_2|PENDING\n")
    assert submitted(tmp_path, *flags) == [("102", ["gsm8k"], 1)]


@pytest.mark.process
def test_jobs_that_ended_are_submitted_again_with_a_claim_of_their_own(tmp_path: Path, slurm: Path) -> None:
    submitted(tmp_path, "benchmarks=gsm8k")
    [run_dir] = (tmp_path / "out").glob("*/hf_base/eval_*")
    before = read_owner(run_dir)
    (slurm / "states").write_text("101|FAILED\n")
    assert submitted(tmp_path, "benchmarks=gsm8k") == [("102", ["gsm8k"], 0)]
    after = read_owner(run_dir)
    assert before is not None and after is not None
    assert before.token != after.token and after.slurm_jobs == ("102",)


@pytest.mark.process
def test_a_refused_addition_leaves_the_living_jobs_their_folder(tmp_path: Path, slurm: Path) -> None:
    submitted(tmp_path, "benchmarks=gsm8k")
    [run_dir] = (tmp_path / "out").glob("*/hf_base/eval_*")
    before = read_owner(run_dir), read_plan(run_dir)
    (slurm / "states").write_text("101|RUNNING\n")
    (slurm / "refuse").touch()
    with pytest.raises(SubmissionError, match="no more"):
        submitted(tmp_path, "benchmarks='gsm8k,mbpp'")
    assert (read_owner(run_dir), read_plan(run_dir)) == before


@pytest.mark.process
def test_a_plan_without_ids_refuses_as_a_whole(tmp_path: Path, slurm: Path) -> None:
    """An earlier release did not write them, so nobody knows what its jobs work on."""
    submitted(tmp_path, "benchmarks=gsm8k")
    [run_dir] = (tmp_path / "out").glob("*/hf_base/eval_*")
    plan = planned(run_dir)
    del plan["jobs"][0]["slurm_job_id"]
    (run_dir / "plan.json").write_text(json.dumps(plan))
    (slurm / "states").write_text("101|RUNNING\n")
    assert living_jobs(owners_of([str(run_dir)]), {"101": "RUNNING"}) == {}
    with pytest.raises(ConfigError, match="belongs to Slurm job 101"):
        submitted(tmp_path, "benchmarks='gsm8k,mbpp'")


def chunk(job: JobSpec, index: int, count: int) -> JobSpec:
    tasks = tuple(dataclasses.replace(task, chunk=SampleShare(index=index, count=count)) for task in job.tasks)
    return dataclasses.replace(job, index=index, tasks=tasks)


def test_shares_of_another_division_meet(tmp_path: Path) -> None:
    [job] = jobs_of(tmp_path, *BARE, "benchmarks=gsm8k")
    living = {job.run_dir: [LivingJob(chunk(job, 0, 3), "1", "RUNNING")]}
    for other in (job, chunk(job, 0, 3), chunk(job, 1, 2)):
        assert leave_out_living([other], living)[0] == []
    assert leave_out_living([chunk(job, 1, 3)], living)[0] == [chunk(job, 1, 3)]


@pytest.mark.process
def test_the_same_command_goes_on_after_sbatch_refused_the_second_array(tmp_path: Path, slurm: Path) -> None:
    ar = jobs_of(tmp_path, *BARE, "benchmarks=gsm8k")
    dlm = jobs_of(tmp_path, *BARE, "mode=dlm", "benchmarks=gsm8k", "cluster.time_limit=60")
    config = config_of(*BARE)
    (slurm / "refuse-dlm").touch()
    with pytest.raises(SubmissionError, match="no more") as error:
        submit(config, [*ar, *dlm], tmp_path / "out", Launcher(this_process()))
    assert "already submitted: 101" in str(error.value) and "--time=60" in error.value.script
    (slurm / "refuse-dlm").unlink()
    (slurm / "states").write_text("101|PENDING\n")
    again, _ = submit(config, [*ar, *dlm], tmp_path / "out", Launcher(this_process()))
    assert [(item.job_id, item.spec.name) for item in again] == [("102", "dlm")]


@pytest.mark.process
def test_squeue_is_asked_once_for_all_folders(tmp_path: Path, slurm: Path) -> None:
    flags = ("mode=all", "benchmarks=gsm8k")
    submitted(tmp_path, *flags)
    (slurm / "states").write_text("101_0|RUNNING\n101_1|FAILED\n101_2|TIMEOUT\n")
    (slurm / "asked").write_text("")
    assert submitted(tmp_path, *flags) == [("102_0", ["gsm8k"], 0), ("102_1", ["gsm8k"], 0)]
    assert (slurm / "asked").read_text().count("squeue") == 1
