"""A dry run says what would happen, and writes nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from trimode.core.project import child_environment
from trimode.pipeline.launch import dry_run
from trimode.pipeline.launch.dry_run import job_scripts
from trimode.pipeline.sweep import run
from trimode.tests.fakes.sweeps import config_of, finish, jobs_of, local_jobs

pytestmark = pytest.mark.process
LOCAL = ("model.path=./model", "cluster=local", "suite=demo", "out_dir=out", "dry_run=true")


def printed(cwd: Path, capsys: pytest.CaptureFixture[str], *overrides: str) -> str:
    assert run(config_of(*overrides), cwd) == 0
    return capsys.readouterr().out


def test_settings_jobs_and_scripts_of_a_sweep_that_lacks_everything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = printed(
        tmp_path, capsys, "dry_run=true", "out_dir=out", "cluster.account=null", "cluster.container_image=null"
    )
    lines = text.splitlines()
    assert "  model:                nvidia/Nemotron-Labs-Diffusion-8B (hub id)" in lines
    assert (
        "  dlm:                  block 8, threshold 0.9, LoRA off, max model len 20480, max pos emb config.json"
        in lines
    )
    assert "  image:                none (a real run needs one)" in lines
    assert lines.count("#!/bin/bash") == 1
    assert "Script of ar, dlm, linear_spec" in lines
    assert lines[-1] == "[dry-run] No jobs submitted."
    row = next(line for line in lines if line.startswith("  dlm  "))
    assert "gsm8k,human-eval" in row and "livecodebench-cpp (no scorer yet)" in row
    assert " 17656 " in row and " new " in row and row.endswith(jobs_of(tmp_path, "out_dir=out")[1].run_dir)
    assert list(tmp_path.iterdir()) == []


def test_the_script_is_the_one_that_is_submitted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = json.loads(printed(tmp_path, capsys, "dry_run=true", "json=true", "cluster=bare", "out_dir=out"))
    [(jobs, script)] = job_scripts(jobs_of(tmp_path, "cluster=bare", "out_dir=out"))
    assert [job["script"] for job in told["jobs"]] == [script] * len(jobs)


def test_json_is_all_there_is_on_stdout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = json.loads(printed(tmp_path, capsys, "dry_run=true", "json=true", "out_dir=out"))
    assert [job["mode"] for job in told["jobs"]] == ["ar", "dlm", "linear_spec"]
    job = told["jobs"][1]
    assert (job["num_requests"], job["num_left"], job["state"]) == (17656, 17656, "new")
    assert job["without_scorer"] == ["livecodebench-cpp"]
    assert job["decode"]["threshold"] == 0.9
    assert told["settings"]["tokens"] == "8192"


def test_what_is_finished_is_skipped_and_has_no_script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ar, dlm, _ = local_jobs(tmp_path)
    finish(ar)
    Path(dlm.run_dir).mkdir(parents=True)
    told = json.loads(printed(tmp_path, capsys, *LOCAL, "json=true"))
    assert [job["state"] for job in told["jobs"]] == ["skipped", "resumed", "new"]
    assert [job["script"] is None for job in told["jobs"]] == [True, False, False]
    text = printed(tmp_path, capsys, *LOCAL)
    assert f"resumed ({dlm.tasks[0].num_requests + sum(t.num_requests for t in dlm.tasks[1:])} left)" in text
    assert "Script of dlm" in text and "Script of ar" not in text


def test_a_local_job_shows_its_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model").mkdir()
    text = printed(tmp_path, capsys, *LOCAL, "mode=ar")
    assert f"SUBMITIT_EXECUTOR=local {sys.executable} -u -m submitit.core._submit {tmp_path}/out/" in text


def test_it_needs_neither_torch_nor_ray(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['torch', 'ray', 'transformers', 'scipy', 'matplotlib']));"
        "from trimode.pipeline.eval import main; sys.exit(main(['--mode', 'all', '--dry-run']))"
    )
    environment = {"PATH": "/usr/bin:/bin"} | child_environment()
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert dry_run.END in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_quantization_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def rows(*overrides: str) -> list[str]:
        lines = printed(tmp_path, capsys, *LOCAL, "mode=ar", *overrides).splitlines()
        return [line.split(":", 1)[1].strip() for line in lines if line.startswith(("  quantization:", "  batch inv"))]

    (tmp_path / "model").mkdir()
    assert rows() == ["none", "on"]
    assert rows("model.quantization=fp8", "model.batch_invariant=false") == ["fp8, at load", "off"]
    assert rows("model.quantization=w4a16", "model.quantize_head=true") == ["w4a16, at load, head too", "on"]
    (tmp_path / "model" / "config.json").write_text('{"quantization_config": {"quant_method": "gptq"}}')
    assert rows() == ["as in the checkpoint (gptq)", "on"]


def test_a_running_server_is_shown_for_what_it_is_and_not_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("balancer=openai", "balancer.url=http://gpu7:8000", "model.path=org/m", "mode=[ar]", "suite=demo")
    shown = printed(tmp_path, capsys, *words, "cluster=local", "+balancer.fields.top_k=1", "dry_run=true")
    assert "http://gpu7:8000/v1 (running already; no model is started)" in shown
    assert '{"top_k": 1}' in shown
    assert "16 requests" in shown
    assert "none, a running server" in shown
    for ours in ("dtype:", "block 1", "GPUs:", "GPU-hours"):
        assert ours not in shown
