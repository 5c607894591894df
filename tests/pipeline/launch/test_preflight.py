"""What only a real run needs is looked at before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest
from trimode.core.errors import ConfigError
from trimode.pipeline.launch import preflight as preflight_module
from trimode.pipeline.launch.preflight import ensure_worker_packages, preflight
from trimode.pipeline.plan.jobs import plan
from trimode.pipeline.plan.survey import survey
from trimode.tests.fakes.openai_server import OpenAIServer
from trimode.tests.fakes.sweeps import config_of

READY = (
    "suite=demo",
    "model.path=./model",
    "cluster.account=us",
    "cluster.container_image=i.sqsh",
    "cluster.hub_cache=null",
)


def look(cwd: Path, *overrides: str) -> None:
    config = config_of(*overrides)
    found = survey(config, cwd)
    preflight(config, found, plan(config, found))


@pytest.fixture
def ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with model and image, and an sbatch."""
    (tmp_path / "model").mkdir()
    (tmp_path / "i.sqsh").touch()
    monkeypatch.setattr(preflight_module.shutil, "which", lambda _name: "/bin/sbatch")
    return tmp_path


def test_a_ready_sweep_passes(ready: Path) -> None:
    look(ready, *READY)
    look(ready, *READY, "cluster.container_image='docker://registry/image:1'")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("cluster.account=null", "cluster slurm needs an account: got none; give --account"),
        ("cluster.account=''", "cluster slurm needs an account"),
        ("cluster.container_image=null", "cluster slurm runs in an image: got none; give --image"),
        ("cluster.container_image=other.sqsh", "image: no file"),
        ("model.path=./other", "model: no folder"),
        ("model.tokenizer=./other", "tokenizer: no folder"),
        ("benchmarks=livecodebench-cpp", "need a scorer: got livecodebench-cpp, which client embedded cannot score"),
        ("benchmarks=gsm8k", "gsm8k"),
    ],
)
def test_what_is_missing_is_named(ready: Path, override: str, words: str) -> None:
    with pytest.raises(ConfigError) as error:
        look(ready, *READY, "data_dir=nothing", override)
    assert words in str(error.value)


def test_the_benchmarks_that_can_be_scored_are_named(ready: Path) -> None:
    with pytest.raises(ConfigError, match=r"got livecodebench-cpp, .*; valid: --benchmarks gsm8k,mmlu, or another"):
        look(ready, *READY, "mode=ar", "benchmarks=[gsm8k,livecodebench-cpp,mmlu]")


def test_a_machine_without_sbatch_is_named(ready: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight_module.shutil, "which", lambda _name: None)
    with pytest.raises(ConfigError, match="sbatch is not on PATH"):
        look(ready, *READY, "cluster=bare")
    look(ready, *READY, "cluster=local")


def test_jobs_outside_of_containers_need_the_worker_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight_module, "WORKER_PACKAGES", ("no_such_package",))
    monkeypatch.setattr(preflight_module.sys, "prefix", "/elsewhere")
    with pytest.raises(ConfigError, match="jobs need no_such_package"):
        ensure_worker_packages(config_of("cluster=bare"))
    ensure_worker_packages(config_of("cluster=slurm"))


@pytest.mark.process
def test_a_missing_nemo_skills_is_named_before_anything_starts(ready: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIMODE_NEMO_SKILLS_PYTHON", str(ready / "no_python"))
    with pytest.raises(ConfigError, match=r"client nemo_skills needs NeMo-Skills 0\.7: .*no_python has none"):
        look(ready, *READY, "cluster=bare", "client=nemo_skills")
    look(ready, *READY, "client=nemo_skills")  # inside an image: the job sees to it


def test_an_adapter_that_is_not_downloaded_is_named(ready: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trimode.pipeline.plan.survey.PROJECT_DIR", ready)
    lora = ("mode=linear_spec", "modes.linear_spec.lora=true", f"cluster.hub_cache={ready / 'cache'}")
    with pytest.raises(ConfigError, match=r"no adapter folder at .*cache/hub/models--org--tri.* or .*`hf download org"):
        look(ready, *READY, *lora, "model.path=org/tri")


SERVER = ("balancer=openai", "mode=[ar]", "suite=demo", "cluster=local", "model.path=tiny")


def test_a_running_server_is_asked_for_its_model(tmp_path: Path) -> None:
    with OpenAIServer() as fake:
        look(tmp_path, *SERVER, f"balancer.url={fake.url}")
        with pytest.raises(ConfigError, match=r"got .other., which .* does not have; valid: tiny"):
            look(tmp_path, *SERVER, f"balancer.url={fake.url}", "model.path=other")


def test_the_mode_in_the_report_is_the_mode_of_the_server(tmp_path: Path) -> None:
    listed = (200, {"data": [{"id": "tiny", "modes": ["ar", "dlm"], "default_mode": "dlm"}]}, {})
    with OpenAIServer(listed=lambda: listed) as fake:
        url = f"balancer.url={fake.url}"
        look(tmp_path, *SERVER, url, "mode=[dlm]")
        look(tmp_path, *SERVER, url, "+balancer.fields.mode=ar")
        with pytest.raises(ConfigError, match=r"--mode: got ar, but .* in mode dlm; valid: --mode dlm, or \+balancer"):
            look(tmp_path, *SERVER, url)
        with pytest.raises(ConfigError, match=r"--mode: got dlm, but .* in mode ar; valid: --mode ar"):
            look(tmp_path, *SERVER, url, "mode=[dlm]", "+balancer.fields.mode=ar")


def test_a_server_that_is_not_there_or_wants_a_key_is_said_before_anything_starts(tmp_path: Path) -> None:
    with OpenAIServer(key="sk") as fake, pytest.raises(ConfigError, match="asks for an API key, and none was given"):
        look(tmp_path, *SERVER, f"balancer.url={fake.url}")
    with pytest.raises(ConfigError, match=r"no server answers at .*; start the server"):
        look(tmp_path, *SERVER, f"balancer.url={fake.url}")


def test_a_running_server_needs_no_worker_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight_module, "has_worker_packages", lambda: False)
    ensure_worker_packages(config_of(*SERVER, "balancer.url=http://h:1"))
