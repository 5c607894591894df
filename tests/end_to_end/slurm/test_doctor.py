"""The doctor on a real Slurm: what it says of a cluster that is ready, of one that refuses, and what a probe leaves."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from trimode.core.project import child_environment

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("cluster")]


def doctor(cwd: Path, *flags: str) -> tuple[int, dict[str, list[dict[str, str]]]]:
    """The exit status, and the findings by name."""
    words = ("--mode", "all", "--model", "./model", "--benchmarks", "demo-math", "--cluster", "bare", *flags)
    command = [sys.executable, "-m", "trimode.pipeline.doctor", "--json", *words]
    environment = child_environment() | {"OMP_NUM_THREADS": "1"}
    (cwd / "model").mkdir(exist_ok=True)
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode in (0, 1), done.stderr
    found: dict[str, list[dict[str, str]]] = {}
    for row in json.loads(done.stdout)["findings"]:
        found.setdefault(row["name"], []).append(row)
    return done.returncode, found


def test_a_ready_cluster_and_its_probe(tmp_path: Path) -> None:
    status, found = doctor(tmp_path, "--gpus", "2", "--probe")
    assert status == 0, found
    assert "ar and 2 more: Job " in found["sbatch --test-only"][0]["text"]
    assert found["GPUs"][0]["text"] == "a job asks for 2; the largest node has 8"
    assert found["MaxArraySize"][0]["state"] == "ok" and found["partition main"][0]["state"] == "ok"
    for name in ("probe", "node's Python", "node's files", "shared folder", "flock", "rename", "clock"):
        assert [row["state"] for row in found[name]] == ["ok"], found[name]
    assert list((tmp_path / "eval_suit_results").iterdir()) == []
    living = subprocess.run(
        ["squeue", "--noheader", "--name=trimode-probe"], capture_output=True, text=True, check=True
    )
    assert living.stdout == ""


def test_what_sbatch_refuses(tmp_path: Path) -> None:
    status, found = doctor(tmp_path, "--gpus", "9", "--partition", "main")
    assert status == 1
    assert found["sbatch --test-only"][0]["state"] == "fail" and found["GPUs"][0]["remedy"] == "give --gpus 8"
    status, found = doctor(tmp_path, "--gpus", "1", "--partition", "nowhere")
    assert status == 1
    assert "invalid partition specified: nowhere" in found["sbatch --test-only"][0]["text"]
    assert found["partition"][0]["remedy"] == "valid: main, urgent"
