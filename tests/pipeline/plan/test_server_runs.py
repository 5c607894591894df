"""The job that asks a running server: its name and identity have the model and the engine, and no address."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from trimode.core.errors import ConfigError
from trimode.pipeline.plan.names import MAX_BYTES
from trimode.pipeline.run_folder.job_json import job_from_json
from trimode.pipeline.spec import Device, JobSpec
from trimode.tests.fakes.openai_server import OpenAIServer
from trimode.tests.fakes.sweeps import jobs_of

URL = "balancer.url=http://gpu7:8000"


def job_of(cwd: Path, *overrides: str) -> JobSpec:
    words = ("balancer=openai", "mode=[ar]", "suite=demo", "cluster=local", "model.path=org/m", "out_dir=out")
    (job,) = jobs_of(cwd, *words, *overrides)
    return job


def test_the_name_says_model_engine_mode_and_settings(tmp_path: Path) -> None:
    assert job_of(tmp_path, URL, "balancer.engine=vllm").exp_name == "org__m_vllm_ar_tok8192_temp0"
    assert job_of(tmp_path, URL, "model.name=M", "temperature=0.6").exp_name == "M_server_ar_tok8192_temp0.6"


def test_a_server_that_moves_keeps_its_folder(tmp_path: Path) -> None:
    first = job_of(tmp_path, URL)
    moved = job_of(tmp_path, "balancer.url=https://other/v1", "balancer.api_key_file=k", "balancer.max_in_flight=2")
    assert moved.run_dir == first.run_dir
    assert "gpu7" not in json.dumps(first.identity)


@pytest.mark.parametrize(
    "override",
    ["model.path=org/n", "balancer.engine=x", "+balancer.fields.top_k=1", "max_new_tokens=64", "enable_thinking=true"],
)
def test_what_changes_answers_changes_the_folder(tmp_path: Path, override: str) -> None:
    assert job_of(tmp_path, URL, override).run_dir != job_of(tmp_path, URL).run_dir


def test_a_mode_is_a_name_and_its_fields_are_left_out(tmp_path: Path) -> None:
    job = job_of(tmp_path, URL)
    assert not job.identity.keys() & {"block_length", "threshold", "lora", "weights"}
    assert (job.decode.block_length, job.decode.threshold) == (0, None)


def test_no_gpu_and_no_worker_is_asked_for(tmp_path: Path) -> None:
    for cluster in ("local", "bare"):
        resources = job_of(tmp_path, URL, f"cluster={cluster}").resources
        assert (resources.num_gpus, resources.num_workers, resources.device) == (0, None, Device.cpu)
    assert (resources.cpus_per_task, resources.mem_gb) == (4, 16)


def test_the_limit_of_requests_is_the_servers(tmp_path: Path) -> None:
    assert job_of(tmp_path, URL, "balancer.max_in_flight=5").client.max_concurrent_requests == 5


def test_the_job_travels_as_json(tmp_path: Path) -> None:
    job = job_of(tmp_path, URL, "+balancer.fields.top_k=1")
    raw = json.loads(json.dumps(job, default=lambda item: {k: getattr(item, k) for k in item.__slots__}))
    assert job_from_json(raw) == job


def test_a_long_name_is_shortened(tmp_path: Path) -> None:
    name = job_of(tmp_path, URL, f"model.path={'m' * 400}").exp_name
    assert len(name.encode()) <= MAX_BYTES
    assert name.endswith("_server_ar_tok8192_temp0")


def test_only_a_sweep_without_a_model_asks_the_server(tmp_path: Path) -> None:
    with OpenAIServer(models=("only",)) as fake:
        assert job_of(tmp_path, f"balancer.url={fake.url}", "model.path=''").model.path == "only"
    with OpenAIServer(models=("a", "b")) as fake, pytest.raises(ConfigError, match="several models"):
        job_of(tmp_path, f"balancer.url={fake.url}", "model.path=''")
