"""A job of several nodes: the text of its batch script, and what bash makes of it with stand-ins for Slurm."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from trimode.core.errors import START_AGAIN
from trimode.pipeline.slurm import nodes
from trimode.pipeline.slurm.requeue import EARLY_WARNING, srun_function
from trimode.pipeline.slurm.script import join_step, sbatch_text
from trimode.pipeline.spec import JobSpec
from trimode.tests.fakes.sweeps import jobs_of


def jobs(cwd: Path, *overrides: str) -> list[JobSpec]:
    return list(jobs_of(cwd, "cluster=bare", "mode=ar", "cluster.gpus=2", "cluster.nodes=3", *overrides))


def test_slurm_is_asked_for_nodes_that_may_die(tmp_path: Path) -> None:
    lines = sbatch_text(jobs(tmp_path)).splitlines()
    for option in ("--nodes=3", "--ntasks-per-node=1", "--gpus-per-node=2", "--cpus-per-task=12", "--no-kill"):
        assert f"#SBATCH {option}" in lines
    main = [line for line in lines if "command srun" in line and '"$@"' in line]
    assert [line.split("command ")[1] for line in main] == [
        'srun $overlap --nodes=1 --ntasks=1 --nodelist="$SLURMD_NODENAME" "$@" &'
    ]


def test_one_node_has_none_of_it(tmp_path: Path) -> None:
    text = sbatch_text(jobs(tmp_path, "cluster.nodes=1"))
    assert "#SBATCH --nodes=1\n" in text
    assert "no-kill" not in text and "join" not in text and "$SLURM_JOB_NODELIST" not in text


def test_a_joining_step_gets_what_the_jobs_own_step_gets(tmp_path: Path) -> None:
    assert join_step(jobs(tmp_path, "cluster.srun=['--mpi=none']")) == (
        f"--cpus-per-task=12 --mpi=none {sys.executable} -u -m trimode.balancer.join"
    )
    contained = join_step(jobs(tmp_path, "cluster=slurm", "cluster.container_image=/my image.sqsh"))
    assert contained.startswith("'--container-image=/my image.sqsh' --container-workdir=")
    assert contained.endswith(" python3 -u -m trimode.balancer.join")


def script(tmp_path: Path, step: str, join: str) -> subprocess.Popen[bytes]:
    """Starts the batch script of a job on three nodes, of which `a` is the first one."""
    tools = tmp_path / "tools"
    tools.mkdir()
    guard = f'echo "$2 $3 $4 $5" >>{tmp_path}/guards; shift 4; exec "$@"'
    srun = f'case "$*" in *stay_with_first*) {guard} ;; *join*) {join} ;; *) {step} ;; esac'
    scontrol = f'[ "$1" != requeue ] || {{ echo "$*" >>{tmp_path}/calls; exit 1; }}; echo "$3" | tr , "\\n"'
    squeue = f"cat {tmp_path}/left"
    scancel = f'echo "scancel $*" >>{tmp_path}/calls'
    for name, text in {"srun": srun, "scontrol": scontrol, "squeue": squeue, "scancel": scancel}.items():
        (tools / name).write_text(f"#!/bin/bash\n{text}\n")
        (tools / name).chmod(0o755)
    [job] = jobs(tmp_path)
    text = [EARLY_WARNING, *srun_function(job.resources, "--x join"), f"srun job {tmp_path}"]
    environment = {"PATH": f"{tools}:/usr/bin:/bin", "SLURM_JOB_ID": "7", "SLURMD_NODENAME": "a"}
    environment["SLURM_JOB_NODELIST"] = "a,b,c"
    return subprocess.Popen(["bash", "-c", "\n".join(text)], env=environment, stderr=subprocess.DEVNULL)


def wait_for_lines(path: Path, count: int) -> list[str]:
    deadline = time.monotonic() + 120
    while not path.exists() or len(path.read_text().splitlines()) < count:
        assert time.monotonic() < deadline, f"{path} has fewer than {count} lines"
        time.sleep(0.05)
    return path.read_text().splitlines()


@pytest.mark.process
def test_each_further_node_has_a_step_that_ends_with_the_script(tmp_path: Path) -> None:
    join = f'echo "$* ${{#TRIMODE_NODES_TOKEN}}" >>{tmp_path}/joins; exec sleep 600'
    step = f'echo "$*" >{tmp_path}/steps; while [ ! -e {tmp_path}/end ]; do sleep 0.1; done; exit 3'
    batch = script(tmp_path, step, join)
    server = f"{tmp_path}/server_7"
    assert sorted(wait_for_lines(tmp_path / "joins", 2)) == [
        f"--overlap --nodes=1 --ntasks=1 --nodelist=b --x join {server} 1 64",
        f"--overlap --nodes=1 --ntasks=1 --nodelist=c --x join {server} 2 64",
    ]
    assert wait_for_lines(tmp_path / "steps", 1) == [f"--nodes=1 --ntasks=1 --nodelist=a job {tmp_path}"]
    Path(server).write_text("{}")
    (tmp_path / "end").touch()
    assert batch.wait() == 3
    assert not Path(server).exists()


@pytest.mark.process
def test_a_step_of_a_further_node_is_started_again_and_the_servers_restart_starts_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes, "JOIN_PAUSE_S", 0)
    monkeypatch.setattr(nodes, "JOIN_TRIES", 3)
    join = f"echo x >>{tmp_path}/joins; exit 1"
    step = (
        f"echo x >>{tmp_path}/steps; until [ $(wc -l <{tmp_path}/joins) -eq 6 ]; do sleep 0.1; done; exit {START_AGAIN}"
    )
    batch = script(tmp_path, step, join)
    assert batch.wait() == START_AGAIN
    assert len(wait_for_lines(tmp_path / "steps", 4)) == 4
    assert len(wait_for_lines(tmp_path / "joins", 6)) == 6


@pytest.mark.process
def test_the_warning_reaches_the_jobs_step_alone(tmp_path: Path) -> None:
    join = f"trap 'echo warned >>{tmp_path}/joins' USR2; echo x >>{tmp_path}/joins; while :; do sleep 0.1; done"
    step = f"trap 'exit 5' USR2; echo x >{tmp_path}/steps; while :; do sleep 0.1; done"
    batch = script(tmp_path, step, join)
    wait_for_lines(tmp_path / "steps", 1)
    wait_for_lines(tmp_path / "joins", 2)
    batch.send_signal(signal.SIGUSR2)
    assert batch.wait() == 5
    assert (tmp_path / "joins").read_text().splitlines() == ["x", "x"]


@pytest.mark.process
def test_a_job_whose_first_node_died_is_run_again_and_else_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes, "LOOK_EVERY_S", 0.1)
    (tmp_path / "left").write_text("a,c\n")
    step = f"while [ ! -e {tmp_path}/end ]; do sleep 0.1; done"
    batch = script(tmp_path, step, "exec sleep 600")
    wait_for_lines(tmp_path / "guards", 2)
    assert not (tmp_path / "calls").exists(), "only a further node is gone"
    (tmp_path / "left").write_text("b,c\n")
    assert set(wait_for_lines(tmp_path / "calls", 2)) == {"requeue 7", "scancel 7"}
    (tmp_path / "left").write_text("")
    (tmp_path / "end").touch()
    assert batch.wait() == 0
