"""A multirun is one plan and one submission: against a fake Slurm, with the files, memory and time that it takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from trimode.core.project import child_environment
from trimode.tests.fakes.slurm import fake_slurm

pytestmark = pytest.mark.process
TEN = "aime24,aime25,gpqa,gsm8k,human-eval,ifeval,livecodebench,math-500,mbpp,mmlu"
MEASURED = """
import resource, sys
from trimode.pipeline.launch import preflight
preflight.load_rows = lambda *_: []
from trimode.pipeline.__main__ import main
status = main()
used = resource.getrusage(resource.RUSAGE_SELF)
[peak] = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]  # since the exec
print("USED", used.ru_utime + used.ru_stime, int(peak) // 1024, file=sys.stderr)
sys.exit(status)
"""
"""The command itself without the benchmarks' data, which are not here; then its CPU seconds and memory in MiB."""


def models(cwd: Path, count: int) -> str:
    for number in range(count):
        folder = cwd / f"step{number}"
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 65536, "number": number}))
        (folder / "model.safetensors").write_bytes(b"\0" * 100)
    return ",".join(f"./step{number}" for number in range(count))


def multirun(cwd: Path, bin_dir: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    environment = child_environment() | {"PATH": f"{bin_dir}:{os.environ['PATH']}"}
    command = [sys.executable, "-c", MEASURED, "-m", "cluster=bare", "out_dir=out", *overrides]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_hundred_checkpoints_are_one_small_submission(tmp_path: Path) -> None:
    fake = fake_slurm(tmp_path / "bin")
    flags = (f"model.path={models(tmp_path, 100)}", "mode=all", f"benchmarks='{TEN}'")
    done = multirun(tmp_path, fake.folder, *flags)
    assert done.returncode == 0, done.stderr
    submitted = [line for line in done.stdout.splitlines() if line.startswith("submitted ")]
    assert len(submitted) == 300
    assert len(fake.calls("sbatch")) == 1
    assert len(fake.calls("squeue")) == 0, "no folder has an owner who could be asked"
    [script] = fake.scripts()
    assert "#SBATCH --array=0-299%300" in script and "--job-name=trimode-step0+99-more-ar+dlm+linear_spec" in script
    files = sum(len(names) for _, _, names in os.walk(tmp_path / "out"))
    _, cpu_s, memory = next(line for line in done.stderr.splitlines() if line.startswith("USED")).split()
    print(f"{float(cpu_s):.1f} s of CPU, {memory} MiB, {files} files")
    assert files < 500
    assert int(memory) < 200
    assert float(cpu_s) < 60  # under 10 on an idle machine
    again = multirun(tmp_path, fake.folder, *flags)  # the fake squeue knows all jobs as pending
    assert len(fake.calls("squeue")) == 1 and len(fake.calls("sbatch")) == 1
    assert again.returncode == 0 and "nothing is left to submit" in again.stderr, again.stderr


def test_a_dry_run_of_a_multirun_is_one_summary(tmp_path: Path) -> None:
    fake = fake_slurm(tmp_path / "bin")
    done = multirun(tmp_path, fake.folder, f"model.path={models(tmp_path, 5)}", "mode=ar,dlm", "dry_run=true")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line for line in lines if line.startswith("Settings")] == ["Settings"]
    model = next(line for line in lines if line.startswith("  model:"))
    assert model.endswith("... (5 values)") and model.count(" | ") == 3
    assert "Script of ar (5 jobs), dlm (5 jobs)" in lines
    assert lines.count("#!/bin/bash") == 1
    assert "10 sweeps, 10 jobs to start in 1 script" in lines
    assert not (tmp_path / "out").exists() and fake.calls("sbatch") == []


def test_combinations_that_answer_the_same_are_refused_before_anything_starts(tmp_path: Path) -> None:
    fake = fake_slurm(tmp_path / "bin")
    common = (f"model.path={models(tmp_path, 1)}", "mode=ar")
    done = multirun(tmp_path, fake.folder, *common, "cluster.time_limit=60,120", "suite=demo")
    assert done.returncode == 2
    assert "combinations of a multirun differ in what they answer" in done.stderr
    assert fake.calls("sbatch") == []


def test_combinations_in_one_run_folder_get_jobs_of_their_own(tmp_path: Path) -> None:
    fake = fake_slurm(tmp_path / "bin")
    common = (f"model.path={models(tmp_path, 1)}", "mode=ar")
    done = multirun(tmp_path, fake.folder, *common, "benchmarks=demo-math,demo-mcq")
    assert done.returncode == 0, done.stderr
    ids = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("submitted ")]
    assert ids == ["101_0", "101_1"]
    [owner] = (tmp_path / "out").glob("*/hf_base/*/owner.json")
    assert json.loads(owner.read_text())["slurm_jobs"] == ids


def test_groups_and_values_of_a_multirun_are_hydras(tmp_path: Path) -> None:
    fake = fake_slurm(tmp_path / "bin")
    done = multirun(tmp_path, fake.folder, "mode=ar,dlm", "temperature=0.5,1", "json=true", "dry_run=true")
    assert done.returncode == 0, done.stderr
    sweeps = json.loads(done.stdout)["sweeps"]
    found = [(sweep["jobs"][0]["mode"], sweep["jobs"][0]["decode"]["temperature"]) for sweep in sweeps]
    assert found == [("ar", 0.5), ("ar", 1.0), ("dlm", 0.5), ("dlm", 1.0)]
