"""One job over two nodes of a real Slurm: workers of both answer, and the job outlives the second one's death."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from trimode.bench.drills.cluster import Cluster
from trimode.core.files import whole_lines
from trimode.core.project import PROJECT_DIR, child_environment
from trimode.pipeline.run_folder.nfe import read_nfe_log
from trimode.pipeline.run_folder.paths import RunPaths
from trimode.pipeline.slurm.queue import has_ended, job_states

MODEL = PROJECT_DIR / "assets" / "demo_model"
NUM_LONG = 200
LONG = ("--limit", str(NUM_LONG), "--tokens", "384", "--no-eos-early-stop")
"""A job whose answers take a while."""
pytestmark = [
    pytest.mark.slurm,
    pytest.mark.usefixtures("cluster"),
    pytest.mark.skipif(not (MODEL / "model.safetensors").exists(), reason="the demo model is not here"),
]


def submit(cwd: Path, *flags: str) -> tuple[str, RunPaths]:
    """The id and the run folder of a job of two nodes with one CPU worker each."""
    command = [sys.executable, "-m", "trimode.pipeline.eval", "--mode", "ar", "--model", str(MODEL)]
    command += ["--benchmarks", "demo-math", "--tokens", "64", "--cluster", "bare", "--device", "cpu", "--gpus", "1"]
    command += ["--nodes", "2", "--out-dir", "out", *flags]
    environment = child_environment() | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    [job_id] = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("submitted ")]
    [run_dir] = (cwd / "out").glob("*/hf_base/eval_*")
    return job_id, RunPaths(run_dir)


def wait_until(condition: Callable[[], bool], what: str, limit_s: float = 400.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"it did not happen: {what}"
        time.sleep(0.2)


def has_ended_job(job_id: str) -> bool:
    return has_ended(job_states([job_id]).get(job_id))


def has_returned(job_id: str) -> bool:
    """True once Slurm has put a job back into its queue: it may run again before one looks."""
    shown = subprocess.run(["scontrol", "show", "job", job_id], capture_output=True, text=True, check=True).stdout
    assert has_ended(job_states([job_id]).get(job_id)) is False, shown
    return " Restarts=0 " not in shown


def nodes_of(job_id: str) -> str:
    asked = ["squeue", "--noheader", "--states=RUNNING", "--format=%N", f"--jobs={job_id}"]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()


def said(cwd: Path, paths: RunPaths) -> str:
    """What the job, its server and Slurm's own log hold."""
    files = [paths.pipeline_log(0), paths.balancer_log(0), *(cwd / "out").glob(".submitit/*/*_log.out")]
    return "\n".join(f"--- {file}\n{file.read_text()}" for file in files if file.exists())


def processes_of(job_id: str, node: str | None = None) -> list[psutil.Process]:
    """Every living process that belongs to a job, on one node or on all."""
    found = []
    for process in psutil.process_iter():
        try:
            environment = process.environ()
            if environment.get("SLURM_JOB_ID") == job_id and process.status() != psutil.STATUS_ZOMBIE:
                found += [process] if node in (None, environment.get("SLURMD_NODENAME")) else []
        except psutil.Error:
            continue
    return found


def kill_node(folder: Path, job_id: str, node: str) -> None:
    """Kills slurmd, slurmstepd and all processes of a job on a node, as if its power was cut."""
    processes = processes_of(job_id, node)
    steps = {parent for process in processes for parent in parents_of(process) if parent.name() == "slurmstepd"}
    os.kill(Cluster(folder).pid(f"slurmd.{node}"), signal.SIGKILL)
    for process in [*steps, *processes]:
        with contextlib.suppress(psutil.Error):
            process.kill()


def parents_of(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.parents()
    except psutil.Error:
        return []


def test_workers_of_both_nodes_answer(tmp_path: Path) -> None:
    job_id, paths = submit(tmp_path, "--limit", "40")
    wait_until(lambda: has_ended_job(job_id), "the job's end")
    assert paths.completed(0).exists(), said(tmp_path, paths)
    assert len(list(read_nfe_log(paths.nfe_log(0)))) == 40
    assert "starting 1 worker(s) on cpu on each of 2 nodes" in paths.pipeline_log(0).read_text()
    end = re.search(r"workers at the end: (.*)", paths.balancer_log(0).read_text())
    assert end is not None, said(tmp_path, paths)
    workers = json.loads(end[1])["workers"]
    assert [worker["node"] for worker in workers] == [0, 1]
    assert all(worker["finished"] > 0 for worker in workers), workers
    assert json.loads(paths.manifest.read_text())["jobs"]["0"]["devices"] == ["cpu", "cpu"]
    wait_until(lambda: not processes_of(job_id), "the end of its processes")


def test_the_job_goes_on_without_a_node_that_died(tmp_path: Path, cluster: Path) -> None:
    job_id, paths = submit(tmp_path, *LONG)
    wait_until(lambda: len(list(whole_lines(paths.nfe_log(0)))) >= 4, "the first answers")
    kill_node(cluster, job_id, "n2")
    subprocess.run(["scontrol", "update", "NodeName=n2", "State=DOWN", "Reason=killed"], check=True)  # at once
    try:
        assert nodes_of(job_id) == "n1", "Slurm keeps the job without the dead node"
        wait_until(lambda: has_ended_job(job_id), "the job's end")
        assert paths.completed(0).exists(), said(tmp_path, paths)
        assert "workers lost: 1 with n2; the job goes on with the others" in paths.pipeline_log(0).read_text()
        [run] = json.loads(paths.manifest.read_text())["jobs"]["0"]["runs"]
        assert run["lost_workers"] == {"n2": 1}
        keys = [record.key for record in read_nfe_log(paths.nfe_log(0))]
        assert len(keys) == len(set(keys)) == NUM_LONG
    finally:
        bring_back(cluster, "n2")


def test_a_warned_job_is_requeued_and_leaves_nothing_behind(tmp_path: Path) -> None:
    job_id, paths = submit(tmp_path, *LONG)
    wait_until(lambda: len(list(whole_lines(paths.nfe_log(0)))) >= 4, "the first answers")
    subprocess.run(["scancel", "--batch", "--signal=USR2", job_id], check=True)  # as Slurm does near the limit
    wait_until(lambda: has_returned(job_id), "its return to the queue")
    wait_until(lambda: not processes_of(job_id), "the end of its processes")
    subprocess.run(["scancel", job_id], check=True)
    assert "requeued 1/10" in paths.pipeline_log(0).read_text()
    assert not paths.failed(0).exists() and not paths.completed(0).exists()


def test_the_death_of_the_first_node_is_the_jobs(tmp_path: Path, cluster: Path) -> None:
    job_id, paths = submit(tmp_path, *LONG)
    wait_until(lambda: len(list(whole_lines(paths.nfe_log(0)))) >= 4, "the first answers")
    kill_node(cluster, job_id, "n1")
    try:
        wait_until(lambda: has_returned(job_id), "its return to the queue")
        wait_until(lambda: not processes_of(job_id), "the end of its processes")
        assert not paths.failed(0).exists() and not paths.completed(0).exists()
    finally:
        subprocess.run(["scancel", job_id], check=True)
        bring_back(cluster, "n1")


def bring_back(folder: Path, node: str) -> None:
    """Starts slurmd again, and waits until the node may be used."""
    subprocess.run(["scontrol", "update", f"NodeName={node}", "State=RESUME"], check=False)  # if it was set down
    Cluster(folder).restart_slurmd(node)
    shown = ["sinfo", "--noheader", f"--nodes={node}", "--partition=main", "--format=%t"]
    wait_until(
        lambda: "idle" in subprocess.run(shown, capture_output=True, text=True, check=False).stdout, f"{node} is idle"
    )
