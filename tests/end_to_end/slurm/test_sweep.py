"""Sweeps on a real Slurm: submitted through the command of eval.sh, seen in squeue, finished in the run folders."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from trimode.core.files import whole_lines
from trimode.core.project import PROJECT_DIR, child_environment
from trimode.pipeline.config.multirun import compose_all
from trimode.pipeline.launch.call import Launcher
from trimode.pipeline.launch.owner import this_process
from trimode.pipeline.run_folder.nfe import read_nfe_log
from trimode.pipeline.run_folder.paths import RunPaths
from trimode.pipeline.run_folder.rows import finished_positions, read_output
from trimode.pipeline.slurm.queue import has_ended, job_states
from trimode.pipeline.status.__main__ import main as status
from trimode.pipeline.sweep import run, run_all
from trimode.tests.fakes.sweeps import HERE, config_of

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("cluster")]
MODEL = PROJECT_DIR / "assets" / "demo_model"
TWO_GPUS = ("model.path=./model", "suite=demo", "cluster=bare", "cluster.gpus=2", "out_dir=out")


def evaluate(cwd: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """What eval.sh starts, in `cwd`."""
    command = [sys.executable, "-m", "trimode.pipeline.eval", *flags]
    environment = child_environment() | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=900, check=False)


def queue() -> list[str]:
    """Every job Slurm remembers, ended ones too."""
    asked = ["squeue", "--noheader", "--states=all", "--array", "--format=%i"]
    return sorted(subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split())


def sweep(cwd: Path, function: str, *overrides: str) -> int:
    (cwd / "model").mkdir(exist_ok=True)
    return run(config_of(*TWO_GPUS, *overrides), cwd, Launcher(this_process(), f"{HERE}:{function}"))


def files_below(folder: Path) -> dict[str, int]:
    return {
        str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and ".lock" not in path.name
    }


@pytest.mark.skipif(not (MODEL / "model.safetensors").exists(), reason="the demo model is not here")
def test_two_workers_evaluate_and_a_second_submission_changes_nothing(tmp_path: Path) -> None:
    flags = (
        *("--mode", "dlm", "--model", str(MODEL), "--benchmarks", "demo-math,demo-mcq", "--limit", "4"),
        *("--tokens", "64", "--cluster", "bare", "--device", "cpu", "--gpus", "2", "--out-dir", "out", "--wait"),
    )
    first = evaluate(tmp_path, *flags)
    assert first.returncode == 0, first.stdout + first.stderr
    [run_dir] = (tmp_path / "out").glob("*/hf_base/eval_*")
    paths = RunPaths(run_dir)
    assert paths.completed(0).exists() and not paths.failed(0).exists()
    assert len(paths.nfe_log(0).read_text().splitlines()) == 8
    assert len(paths.output("demo-math", 0).read_text().splitlines()) == 4
    assert "starting 2 worker(s) on cpu" in paths.pipeline_log(0).read_text()
    rows = [line.split()[:3] for line in first.stdout.splitlines()]
    assert ["demo-math", "dlm", "4"] in rows and ["demo-mcq", "dlm", "4"] in rows, first.stdout
    jobs, files = queue(), files_below(run_dir)
    second = evaluate(tmp_path, *flags)
    assert second.returncode == 0, second.stderr
    assert "dlm: finished before, skipped: " in second.stderr
    assert (queue(), files_below(run_dir)) == (jobs, files)


@pytest.mark.skipif(not (MODEL / "model.safetensors").exists(), reason="the demo model is not here")
def test_a_job_warned_of_its_time_limit_is_requeued_and_goes_on(tmp_path: Path) -> None:
    flags = (
        *("--mode", "ar", "--model", str(MODEL), "--benchmarks", "demo-math", "--limit", "150"),
        *("--tokens", "192", "--no-eos-early-stop"),  # so that it takes a while
        *("--cluster", "bare", "--device", "cpu", "--gpus", "1", "--out-dir", "out"),
    )
    submitted = evaluate(tmp_path, *flags)
    assert submitted.returncode == 0, submitted.stderr
    [job_id] = [line.split()[1] for line in submitted.stdout.splitlines() if line.startswith("submitted ")]
    [run_dir] = (tmp_path / "out").glob("*/hf_base/eval_*")
    paths = RunPaths(run_dir)
    wait_until(lambda: len(list(whole_lines(paths.nfe_log(0)))) >= 2)
    subprocess.run(["scancel", "--batch", "--signal=USR2", job_id], check=True)  # as Slurm does near the limit
    wait_until(lambda: job_states([job_id]).get(job_id) == "PENDING")
    assert not paths.failed(0).exists() and not paths.completed(0).exists()
    assert "requeued 1/10" in paths.pipeline_log(0).read_text()
    before = len(finished_positions(paths, "demo-math", 0))  # with those that wait for their verdicts
    assert 0 < before < 150
    time.sleep(7)  # until the first run is gone: Slurm 22.05 mixes up two runs that follow at once
    wait_until(lambda: subprocess.run(["scontrol", "update", f"JobId={job_id}", "StartTime=now"]).returncode == 0)
    wait_until(lambda: has_ended(job_states([job_id]).get(job_id)))
    assert paths.completed(0).exists(), paths.pipeline_log(0).read_text()
    rows = read_output(paths, "demo-math", 0)
    assert len(rows) == len({row["problem"] for row in rows}) == 150
    ledger = [record.key for record in read_nfe_log(paths.nfe_log(0))]
    assert len(ledger) == len(set(ledger)) == 150
    runs = json.loads(paths.manifest.read_text())["jobs"]["0"]["runs"]
    assert [(run["status"], run["restart_count"]) for run in runs] == [("interrupted", 0), ("completed", 1)]


@pytest.mark.skipif(not (MODEL / "model.safetensors").exists(), reason="the demo model is not here")
def test_a_preempted_job_is_requeued_alone_and_a_cancelled_one_is_not(tmp_path: Path) -> None:
    flags = (
        *("--mode", "ar", "--model", str(MODEL), "--benchmarks", "demo-math,demo-mcq", "--jobs-per", "benchmark"),
        *("--limit", "150", "--tokens", "256", "--no-eos-early-stop"),
        *("--cluster", "bare", "--device", "cpu", "--gpus", "1", "--cpus", "16", "--out-dir", "out"),
    )
    submitted = evaluate(tmp_path, *flags)
    assert submitted.returncode == 0, submitted.stderr
    ids = [line.split()[1] for line in submitted.stdout.splitlines() if line.startswith("submitted ")]
    by_node = {node: job_id for job_id in ids for node in [node_of(job_id)]}
    preempted, cancelled = by_node["n2"], by_node["n1"]
    [run_dir] = {path.parent for path in leases(tmp_path, 2)}
    paths = RunPaths(run_dir)
    wait_until(lambda: all("serving at" in paths.pipeline_log(group).read_text() for group in range(2)))
    urgent = ["sbatch", "--partition=urgent", "--exclusive", "--output=/dev/null", "--wrap=true"]
    subprocess.run(urgent, cwd=tmp_path, check=True)
    wait_until(lambda: job_states([preempted]).get(preempted) == "PENDING")
    assert job_states([cancelled]).get(cancelled) == "RUNNING", "the other job of the array was requeued too"
    subprocess.run(["scancel", cancelled], check=True)
    wait_until(lambda: job_states([cancelled]).get(cancelled) == "CANCELLED")
    for group in range(2):
        assert "ended by SIGTERM" in paths.pipeline_log(group).read_text()
        assert not paths.failed(group).exists() and not paths.completed(group).exists()
    shown = subprocess.run(["scontrol", "show", "job", preempted], capture_output=True, text=True, check=True).stdout
    assert "Restarts=1 " in shown
    subprocess.run(["scancel", preempted], check=True)


def node_of(job_id: str) -> str:
    """The node of a job, once it runs."""
    asked = ["squeue", "--noheader", "--format=%N", f"--jobs={job_id}"]
    wait_until(lambda: job_states([job_id]).get(job_id) == "RUNNING")
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()


def leases(tmp_path: Path, count: int) -> list[Path]:
    """The leases of all jobs, once they have begun."""
    wait_until(lambda: len(list((tmp_path / "out").glob("*/hf_base/eval_*/lease_group*.json"))) == count)
    return list((tmp_path / "out").glob("*/hf_base/eval_*/lease_group*.json"))


def wait_until(condition: Callable[[], bool], limit_s: float = 300.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.1)


def test_an_array_is_submitted_at_once_and_its_jobs_see_their_gpus(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = queue()
    assert sweep(tmp_path, "run_to_the_end") == 0
    printed = capsys.readouterr().out
    ids = [line.split()[1] for line in printed.splitlines() if line.startswith("submitted ")]
    array = ids[0].partition("_")[0]
    assert ids == [f"{array}_0", f"{array}_1", f"{array}_2"]
    assert set(queue()) - set(before) == set(ids)
    assert "trimode.pipeline.status --watch" in printed
    while not all(has_ended(state) for state in job_states(ids).values()):
        time.sleep(0.2)
    assert set(job_states(ids).values()) == {"COMPLETED"}
    assert len(list(tmp_path.glob("out/*/hf_base/eval_*/COMPLETED_group0"))) == 3
    for log in (tmp_path / "out" / ".submitit").rglob("*_log.out"):
        devices = [line.split()[1] for line in log.read_text().splitlines() if line.startswith("devices ")]
        assert len(devices) == 1 and len(devices[0].split(",")) == 2


def test_waiting_tells_a_failed_job_and_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep(tmp_path, "fail_in_ar", "wait=true", "mode=[ar,dlm]") == 1
    told = capsys.readouterr().err
    assert "(ar): failed (FAILED): Cause: the dog ate it" in told
    assert "(dlm): COMPLETED" in told


def test_a_job_that_dies_without_a_word_is_a_failed_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep(tmp_path, "vanish", "wait=true", "mode=dlm") == 1
    told = capsys.readouterr().err
    assert "(dlm): failed (FAILED): it left no record" in told
    assert "last words of dlm" in told


def test_sbatchs_refusal_is_told_in_its_words(tmp_path: Path) -> None:
    flags = ("--mode", "ar", "--model", str(tmp_path), "--benchmarks", "demo-math", "--cluster", "bare")
    refused = evaluate(tmp_path, *flags, "--partition", "nowhere")
    assert refused.returncode == 1
    assert "error: sbatch refused the jobs:" in refused.stderr
    assert "invalid partition specified: nowhere" in refused.stderr
    assert "#SBATCH --partition=nowhere" in refused.stderr
    again = evaluate(tmp_path, *flags, "--partition", "nowhere")
    assert again.returncode == 1, "a refused submission left the folder owned"


def test_gpus_that_are_not_there_fail_the_job(tmp_path: Path) -> None:
    flags = ("--mode", "ar", "--model", str(MODEL), "--benchmarks", "demo-math", "--cluster", "bare", "--gpus", "2")
    if list(Path("/dev").glob("nvidia[0-9]*")):
        pytest.skip("this machine has GPUs")
    failed = evaluate(tmp_path, *flags, "--wait")
    assert failed.returncode == 1
    assert "the job asked for 2 GPU(s) and sees none" in failed.stderr
    assert len(list(tmp_path.glob("eval_suit_results/*/hf_base/eval_*/FAILED_group0"))) == 1


def test_a_living_job_keeps_its_benchmarks_until_it_ends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep(tmp_path, "hang", "mode=ar") == 0
    [job_id] = {line for line in queue() if not has_ended(job_states([line]).get(line))}
    before = queue()
    assert sweep(tmp_path, "run_to_the_end", "mode=ar") == 0
    assert f"is left out: Slurm job {job_id} (" in capsys.readouterr().err
    assert queue() == before
    while not list(tmp_path.glob("out/*/hf_base/eval_*/hanging")):
        time.sleep(0.1)
    subprocess.run(["scancel", "--signal=KILL", job_id], check=True)
    while not has_ended(job_states([job_id]).get(job_id)):
        time.sleep(0.1)
    assert sweep(tmp_path, "run_to_the_end", "mode=ar", "wait=true") == 0


def test_a_multirun_is_one_array_whose_settings_slurm_understands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    settings = ("cluster.nice=10", "cluster.comment='two of them'", "cluster.array_throttle=1", "cluster.begin=now")
    configs = compose_all(
        [
            "model.path=./one,./two",
            "mode=ar,dlm",
            "suite=demo",
            "cluster=bare",
            "cluster.gpus=2",
            "out_dir=out",
            *settings,
        ]
    )
    assert run_all(configs, tmp_path, Launcher(this_process(), f"{HERE}:run_to_the_end")) == 0
    ids = [line.split()[1] for line in capsys.readouterr().out.splitlines() if line.startswith("submitted ")]
    array = ids[0].partition("_")[0]
    assert ids == [f"{array}_{number}" for number in range(4)]
    shown = subprocess.run(["scontrol", "show", "job", array], capture_output=True, text=True, check=True).stdout
    assert (
        "JobName=trimode-one+two-ar+dlm" in shown and "Comment=two of them" in shown and "ArrayTaskThrottle=1" in shown
    )
    assert "CPUs/Task=12" in shown
    wait_until(lambda: set(job_states(ids).values()) == {"COMPLETED"})
    assert len(list(tmp_path.glob("out/*/hf_base/eval_*/COMPLETED_group0"))) == 4
    assert status([str(tmp_path / "out")]) == 0
    assert "4 completed" in capsys.readouterr().out
    [folder] = (tmp_path / "out" / ".submitit").iterdir()
    assert sorted(path.name for path in folder.iterdir()) == sorted(f"{job_id}_0_log.out" for job_id in ids)
