"""Clients that others wrote, against a server with the demo model (docs/clients.md).

Each needs a package. It is looked for in this environment and in the interpreters that TRIMODE_CLIENTS names, separated
by colons; without it the test is skipped.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from trimode.tests.fakes.balancer_process import ROOT, RunningBalancer, start_balancer

pytestmark = pytest.mark.process

PROGRAMS = Path(__file__).parent / "programs"
MODEL = ROOT / "assets" / "demo_model"
LIMIT_S = 900.0


@functools.cache
def python_with(package: str) -> str:
    """An interpreter that has the package; skips the test if there is none."""
    for python in (sys.executable, *os.environ.get("TRIMODE_CLIENTS", "").split(":")):
        command = [python, "-c", f"import importlib.util as u, sys; sys.exit(u.find_spec({package!r}) is None)"]
        if python and subprocess.run(command, cwd=PROGRAMS, check=False).returncode == 0:
            return python
    pytest.skip(f"{package} is not installed; TRIMODE_CLIENTS may name an interpreter that has it")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of a server with the demo model."""
    running: RunningBalancer = start_balancer(
        tmp_path_factory.mktemp("clients"),
        *("--model", str(MODEL), "--dtype", "float32", "--num-workers", "1"),
        *("--worker-class", "trimode.workers.worker:Worker"),
    )
    yield running.url
    running.terminate()


def run(python: str, *arguments: str, folder: Path) -> str:
    """Runs a program of this folder; returns what it printed. It must end without an error."""
    unset = ("PYTHONPATH", "PYTHONSAFEPATH")
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(folder), "OPENAI_API_KEY": "none"}
    environment = {name: value for name, value in os.environ.items() if name not in unset} | offline
    done = subprocess.run(
        [python, *arguments], cwd=PROGRAMS, env=environment, capture_output=True, text=True, check=False,
        timeout=LIMIT_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize(
    ("package", "program"),
    [
        ("openai", "openai_client.py"),
        ("langchain_openai", "langchain_client.py"),
        ("litellm", "litellm_client.py"),
    ],
)
def test_a_client_gets_what_it_asks_for(url: str, package: str, program: str, tmp_path: Path) -> None:
    assert run(python_with(package), program, f"{url}/v1", folder=tmp_path)


@pytest.mark.parametrize(
    ("model", "path", "task", "metric", "least"),
    [
        ("local-completions", "completions", "sums_choice", "acc,none", 1.0),
        ("local-chat-completions", "chat/completions", "sums_answer", "exact_match,number", 0.6),
    ],
)
def test_lm_evaluation_harness_runs_its_tasks(
    url: str, model: str, path: str, task: str, metric: str, least: float, tmp_path: Path
) -> None:
    several = ["--batch_size", "4"] if model == "local-completions" else ["--apply_chat_template"]
    server = f"model=demo_model,base_url={url}/v1/{path},tokenizer_backend=remote,num_concurrent=2,max_length=2048"
    run(
        python_with("lm_eval"),
        *("-m", "lm_eval", "run", "--model", model, "--model_args", server, "--include_path", "tasks"),
        *("--tasks", task, *several, "--output_path", str(tmp_path / "out")),
        folder=tmp_path,
    )
    (results,) = (tmp_path / "out").rglob("results_*.json")
    assert json.loads(results.read_text())["results"][task][metric] >= least


def test_inspect_runs_a_task(url: str, tmp_path: Path) -> None:
    shown = run(
        python_with("inspect_ai"),
        *("-m", "inspect_ai", "eval", "inspect_task.py", "--model", "openai-api/local/demo_model"),
        *("--model-base-url", f"{url}/v1", "-M", "api_key=none", "--max-tokens", "64", "--display", "plain"),
        *("--log-dir", str(tmp_path / "logs")),
        folder=tmp_path,
    )
    assert "accuracy  1.000" in shown


def test_schemathesis_finds_no_server_error(url: str, tmp_path: Path) -> None:
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    run(
        python_with("schemathesis"),
        *("-m", "schemathesis.cli", "run", f"{url}/openapi.json", "--checks", checks),
        *("--max-examples", "20", "--seed", "1", "--suppress-health-check", "all"),
        folder=tmp_path,
    )
