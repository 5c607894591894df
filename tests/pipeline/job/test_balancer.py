"""What a job passes to its balancer, read by the balancer's own parser."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
from trimode.balancer.settings import BalancerSettings, parse_settings
from trimode.core.protocol import Quantization
from trimode.pipeline.job.balancer import BALANCER, BalancerProcess, _file_in_memory
from trimode.pipeline.job.devices import Devices
from trimode.pipeline.run_folder.folder import RunFolder
from trimode.pipeline.run_folder.paths import RunPaths
from trimode.tests.fakes.specs import job_spec


def balancer_settings(folder: Path, **model: object) -> BalancerSettings:
    spec = job_spec(folder)
    spec = dataclasses.replace(spec, model=dataclasses.replace(spec.model, **model))  # type: ignore[arg-type]
    _, *command = BalancerProcess(RunFolder(spec, RunPaths(folder / "run")), Devices("cpu", 1)).command()
    return parse_settings(command[len(BALANCER) :])


@pytest.mark.parametrize("revision", [None, "v1", "1" * 40])
def test_the_models_revision_reaches_the_workers(tmp_path: Path, revision: str | None) -> None:
    settings = balancer_settings(tmp_path, path="org/tri", revision=revision)
    assert (settings.worker.model, settings.worker.revision) == ("org/tri", revision)


@pytest.mark.parametrize("invariant", [True, False])
@pytest.mark.parametrize("head", [True, False])
@pytest.mark.parametrize("quantization", list(Quantization))
def test_quantization_and_batch_invariance_reach_the_workers(
    tmp_path: Path, quantization: Quantization, head: bool, invariant: bool
) -> None:
    settings = balancer_settings(
        tmp_path, quantization=quantization, quantize_head=head, batch_invariant=invariant
    ).worker
    assert (settings.quantization, settings.quantize_head, settings.batch_invariant) == (quantization, head, invariant)


@pytest.mark.parametrize("on", [True, False])
def test_the_journal_lies_in_the_run_folder_and_names_the_job(tmp_path: Path, on: bool) -> None:
    spec = job_spec(tmp_path)
    spec = dataclasses.replace(spec, index=3, client=dataclasses.replace(spec.client, journal=on))
    _, *command = BalancerProcess(RunFolder(spec, RunPaths(tmp_path / "run")), Devices("cpu", 1)).command()
    worker = parse_settings(command[len(BALANCER) :]).worker
    assert worker.journal == (str(tmp_path / "run" / "journal") if on else None)
    assert worker.journal_prefix == "group3_"


@pytest.mark.process
def test_the_key_can_be_read_twice_by_the_process_that_inherits_it_and_by_no_other() -> None:
    handle = _file_in_memory("key")
    name = f"/proc/self/fd/{handle}"
    again = f"import os; os.execv('/bin/cat', ['cat', '{name}', '{name}'])"
    program = f"print(open('{name}').read(), flush=True); {again}"
    read = [sys.executable, "-c", program]
    assert subprocess.run(read, pass_fds=(handle,), capture_output=True, text=True, check=True).stdout == "key\nkeykey"
    assert subprocess.run(read, capture_output=True, text=True, check=False).stdout == ""
    os.close(handle)


def test_a_job_of_several_nodes_says_how_they_find_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIMODE_JOIN_FILE", str(tmp_path / "server_7"))
    monkeypatch.setenv("TRIMODE_NODES_TOKEN", "secret")
    monkeypatch.setenv("SLURM_LAUNCH_NODE_IPADDR", "10.0.0.5")
    spec = job_spec(tmp_path)
    spec = dataclasses.replace(spec, resources=dataclasses.replace(spec.resources, num_nodes=2))
    process = BalancerProcess(RunFolder(spec, RunPaths(tmp_path / "run")), Devices("cpu", 3))
    settings = parse_settings(process.command()[1 + len(BALANCER) :])
    assert (settings.num_nodes, settings.num_workers) == (2, 3)
    assert (settings.join_file, settings.node_host) == (tmp_path / "server_7", "10.0.0.5")
    assert "TRIMODE_NODES_TOKEN" not in os.environ, "programs that are scored would see it"
    monkeypatch.setenv("SLURM_LAUNCH_NODE_IPADDR", "127.0.0.1")  # nobody else reaches it
    assert parse_settings(process.command()[1 + len(BALANCER) :]).node_host is None


def test_one_node_is_not_told_of_others(tmp_path: Path) -> None:
    settings = balancer_settings(tmp_path)
    assert (settings.num_nodes, settings.join_file, settings.node_host) == (1, None, None)


def test_the_time_to_become_ready_reaches_the_server(tmp_path: Path) -> None:
    spec = job_spec(tmp_path)
    spec = dataclasses.replace(spec, client=dataclasses.replace(spec.client, start_timeout_s=77.0))
    _, *command = BalancerProcess(RunFolder(spec, RunPaths(tmp_path / "run")), Devices("cpu", 1)).command()
    assert parse_settings(command[len(BALANCER) :]).start_timeout_s == 77.0
