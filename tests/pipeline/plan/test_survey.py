"""What a config's paths mean, and how far the folders of its jobs have come."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from trimode.core.errors import ConfigError
from trimode.core.files import write_json_atomic
from trimode.pipeline.benchmarks import load_benchmark
from trimode.pipeline.plan import survey as survey_module
from trimode.pipeline.plan.hub_cache import hub_cache
from trimode.pipeline.plan.rounds import JobProgress, continue_or_start, latest_round, round_dir
from trimode.pipeline.plan.survey import find_weights, survey
from trimode.pipeline.run_folder.paths import RunPaths
from trimode.tests.fakes.sweeps import config_of, finish, jobs_of, local_jobs


def test_a_folder_here_a_hub_id_and_a_folder_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "org").mkdir()
    (tmp_path / "org" / "name").mkdir()
    assert find_weights("org/name", tmp_path, None).path == str(tmp_path / "org" / "name")
    hub = find_weights("org/other", tmp_path, "abc")
    assert (hub.path, hub.is_folder, hub.fingerprint) == ("org/other", False, "hub:org/other@abc")
    missing = find_weights("./other", tmp_path, None)
    assert (missing.path, missing.is_folder, missing.found) == (str(tmp_path / "other"), True, False)


def test_a_revision_of_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with pytest.raises(ConfigError, match=r"model\.revision: got v1 for the folder .*; valid: none, or a hub id"):
        survey(config_of("model.path=./model", "model.revision=v1"), tmp_path)


def test_the_adapter_lies_beside_the_model_or_in_the_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey_module, "PROJECT_DIR", tmp_path / "project")
    config = config_of("mode=linear_spec", "modes.linear_spec.lora=true", "model.path=./model")
    (tmp_path / "model").mkdir()
    with pytest.raises(ConfigError) as error:
        survey(config, tmp_path)
    assert "no adapter folder at" in str(error.value) and "miscs" in str(error.value)
    fallback = tmp_path / "project" / "miscs" / "linear_spec_lora"
    fallback.mkdir(parents=True)
    found = survey(config, tmp_path).adapter
    assert found is not None and found.path == str(fallback)
    beside = tmp_path / "model" / "linear_spec_lora"
    beside.mkdir()
    found = survey(config, tmp_path).adapter
    assert found is not None and found.path == str(beside)


def test_without_a_mode_that_uses_it_no_adapter_is_looked_for(tmp_path: Path) -> None:
    assert survey(config_of("model.lora_path=nowhere"), tmp_path).adapter is None


def test_the_context_limit_is_read_where_it_can_be(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    assert survey(config_of("model.path=./model"), tmp_path).config_limit is None
    (model / "config.json").write_text(json.dumps({"max_position_embeddings": 777}))
    assert survey(config_of("model.path=./model"), tmp_path).config_limit == 777


def test_a_job_is_new_then_resumed_then_skipped(tmp_path: Path) -> None:
    jobs = local_jobs(tmp_path, "mode=ar", "benchmarks='demo-math,demo-mcq'", "limit=3")
    state = continue_or_start(jobs, fresh=False)[0]
    assert (state.progress, state.num_left) == (JobProgress.NEW, 6)
    paths = RunPaths(Path(jobs[0].run_dir))
    paths.task_dir("demo-math").mkdir(parents=True)
    paths.output("demo-math", 0).write_text('{"a": 1}\n' * 3)
    state = continue_or_start(jobs, fresh=False)[0]
    assert (state.progress, state.num_left) == (JobProgress.RESUMED, 3)
    finish(jobs[0])
    state = continue_or_start(jobs, fresh=False)[0]
    assert (state.progress, state.num_left) == (JobProgress.SKIPPED, 0)


def test_a_larger_limit_and_more_repeats_resume(tmp_path: Path) -> None:
    finish(local_jobs(tmp_path, "mode=ar", "benchmarks=demo-math", "limit=3")[0])
    more = local_jobs(tmp_path, "mode=ar", "benchmarks=demo-math:2", "limit=5")
    state = continue_or_start(more, fresh=False)[0]
    assert (state.progress, state.num_left) == (JobProgress.RESUMED, 2 + 5)


def test_fresh_goes_beside_and_the_newest_is_resumed(tmp_path: Path) -> None:
    jobs = local_jobs(tmp_path, "mode=ar", "benchmarks=demo-math")
    base = Path(jobs[0].run_dir)
    assert continue_or_start(jobs, fresh=True)[0].spec.run_dir == str(base)
    base.mkdir(parents=True)
    assert continue_or_start(jobs, fresh=True)[0].spec.run_dir == f"{base}_r2"
    for name in ("_r2", "_r10", "_rx", "_r03"):
        base.with_name(base.name + name).mkdir()
    assert latest_round(base) == 10
    assert continue_or_start(jobs, fresh=False)[0].spec.run_dir == f"{base}_r10"
    assert continue_or_start(jobs, fresh=True)[0].spec.run_dir == f"{base}_r11"


def test_answers_to_other_prompts_are_not_continued(tmp_path: Path) -> None:
    jobs = local_jobs(tmp_path, "mode=ar", "benchmarks='demo-math,demo-mcq'")
    base = Path(jobs[0].run_dir)
    today = load_benchmark("demo-math").prompt_sha256
    for number, prompts in ((1, {"demo-math": today}), (2, {"demo-math": "other", "gsm8k": "any"})):
        write_json_atomic(RunPaths(round_dir(base, number)).manifest, {"prompts": prompts})
    state = continue_or_start(jobs, fresh=False)[0]
    assert (state.spec.run_dir, state.progress) == (str(base), JobProgress.RESUMED)
    assert state.note == f"{base}_r2 has answers to other prompts of demo-math"
    write_json_atomic(RunPaths(base).manifest, {"prompts": {"demo-math": "older"}})
    assert continue_or_start(jobs, fresh=False)[0].spec.run_dir == f"{base}_r3"


def test_a_manifest_without_prompts_or_damaged_is_left_to_the_job(tmp_path: Path) -> None:
    jobs = local_jobs(tmp_path, "mode=ar", "benchmarks=demo-math", "limit=3")
    base = Path(jobs[0].run_dir)
    base.mkdir(parents=True)
    for text in ("{}", '{"prompts": null}', '{"prompts": []}'):
        RunPaths(base).manifest.write_text(text)
        assert continue_or_start(jobs, fresh=False)[0].spec.run_dir == str(base)


LORA = ("mode=linear_spec", "modes.linear_spec.lora=true", "model.path=org/tri", "cluster=local")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, and a project without an adapter."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr(survey_module, "PROJECT_DIR", tmp_path / "project")
    return tmp_path / "hf" / "hub"


def cached(hub: Path, commit: str, *names: str, ref: str = "main") -> Path:
    """Files of org/tri at a commit."""
    files = hub / "models--org--tri" / "snapshots" / commit
    for name in names:
        (files / name).parent.mkdir(parents=True, exist_ok=True)
        (files / name).touch()
    (hub / "models--org--tri" / "refs" / ref).parent.mkdir(parents=True, exist_ok=True)
    (hub / "models--org--tri" / "refs" / ref).write_text(commit)
    return files


def test_the_adapter_of_a_hub_id_lies_in_its_snapshot(tmp_path: Path, hub: Path) -> None:
    adapter = "linear_spec_lora/adapter_config.json"
    new, old = cached(hub, "a" * 40, adapter), cached(hub, "b" * 40, adapter, ref="refs/pr/1")
    for revision, files in ((None, new), ("main", new), ("refs/pr/1", old), ("b" * 40, old)):
        found = survey(config_of(*LORA, *([f"model.revision={revision}"] if revision else [])), tmp_path).adapter
        assert found is not None and found.found and found.path == str(files / "linear_spec_lora")


def test_before_its_download_the_adapter_is_expected_in_the_repository(tmp_path: Path, hub: Path) -> None:
    before = jobs_of(tmp_path, *LORA)[0]
    found = survey(config_of(*LORA), tmp_path).adapter
    assert found is not None and not found.found
    assert found.path == "org/tri/linear_spec_lora"
    assert found.looked_in == (
        str(hub / "models--org--tri" / "linear_spec_lora"),
        str(tmp_path / "project" / "miscs" / "linear_spec_lora"),
    )
    cached(hub, "a" * 40, "config.json")  # without weights
    assert not survey(config_of(*LORA), tmp_path).adapter.found  # type: ignore[union-attr]
    cached(hub, "a" * 40, "linear_spec_lora/adapter_config.json")
    assert jobs_of(tmp_path, *LORA)[0].run_dir == before.run_dir


def test_a_repository_without_an_adapter_is_refused_or_the_projects_own_used(tmp_path: Path, hub: Path) -> None:
    files = cached(hub, "a" * 40, "model.safetensors")
    with pytest.raises(ConfigError, match=f"no adapter folder at {files}/linear_spec_lora or .*miscs"):
        survey(config_of(*LORA), tmp_path)
    own = tmp_path / "project" / "miscs" / "linear_spec_lora"
    own.mkdir(parents=True)
    found = survey(config_of(*LORA), tmp_path).adapter
    assert found is not None and found.path == str(own)


@pytest.mark.usefixtures("hub")
def test_containers_look_into_the_cache_that_they_mount(tmp_path: Path) -> None:
    files = cached(tmp_path / "shared" / "hub", "a" * 40, "linear_spec_lora/adapter_config.json")
    slurm = (*LORA[:-1], f"cluster.hub_cache={tmp_path}/shared")
    job = jobs_of(tmp_path, *slurm)[0]
    assert job.decode.lora_path == str(files / "linear_spec_lora")
    assert not any("snapshots" in mount for mount in job.resources.container_mounts)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "{home}/.cache/huggingface/hub"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/huggingface/hub"),
        ({"XDG_CACHE_HOME": "/x", "HF_HOME": "/h"}, "/h/hub"),
        ({"HF_HOME": "/h", "HF_HUB_CACHE": "/c/"}, "/c"),
        ({"HUGGINGFACE_HUB_CACHE": "/c"}, "/c"),
    ],
)
def test_the_cache_lies_where_the_hubs_package_has_it(variables: dict[str, str], expected: str) -> None:
    assert hub_cache(variables) == Path(expected.format(home=Path.home()))
    assert hub_cache(variables, "/mine") == Path("/mine/hub")
