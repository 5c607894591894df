"""Names of run folders: one per model whatever its path is spelled like, short enough, and never hidden."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from trimode.core.files import write_json_atomic
from trimode.pipeline.plan.names import MAX_BYTES, derived_name, label, model_label, settings_of, shortened
from trimode.pipeline.plan.rounds import continue_or_start
from trimode.pipeline.run_folder.manifest import Manifest
from trimode.pipeline.run_folder.paths import RunPaths
from trimode.pipeline.spec import JobSpec
from trimode.tests.fakes.specs import decode_spec
from trimode.tests.fakes.sweeps import jobs_of


def job_of(cwd: Path, model: str, *overrides: str) -> JobSpec:
    return jobs_of(cwd, "mode=ar", f"model.path='{model}'", "cluster=local", "out_dir=/results", *overrides)[0]


@pytest.mark.parametrize("spelling", ["m", "./m", "m/", "m//", "./m/.", "x/../m", "../here/m", "{cwd}/m", "{cwd}/m/"])
def test_every_spelling_of_a_folder_has_one_name(tmp_path: Path, spelling: str) -> None:
    cwd = tmp_path / "here"
    (cwd / "m").mkdir(parents=True)
    job = job_of(cwd, spelling.format(cwd=cwd))
    assert job.exp_name == "m_ar_tok8192_blk1_temp0"
    assert job == job_of(cwd, "m")


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("nvidia/Nemotron-Labs-Diffusion-8B", "nvidia__Nemotron-Labs-Diffusion-8B"),
        ("gpt2", "gpt2"),
        ("models/m", "models__m"),
        ("/models/m", "__models__m"),
        ("./my models/größe", "my models__größe"),
    ],
)
def test_names_without_need_of_change_stay(tmp_path: Path, model: str, expected: str) -> None:
    assert job_of(tmp_path, model).exp_name == f"{expected}_ar_tok8192_blk1_temp0"


def test_a_folder_above_is_named_by_its_whole_path(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "here").mkdir()
    whole = str(tmp_path / "m").replace("/", "__")
    assert job_of(tmp_path / "here", "../m").exp_name == f"{whole}_ar_tok8192_blk1_temp0"
    for here in (".", "./", ".."):
        assert not job_of(tmp_path / "here", here).exp_name.startswith(".")


@pytest.mark.parametrize("name", [".hidden/m", "..m", "...", ".m"])
def test_no_name_is_hidden(tmp_path: Path, name: str) -> None:
    assert job_of(tmp_path, "m", f"model.name='{name}'").exp_name.startswith("_.")
    (tmp_path / name).mkdir(parents=True, exist_ok=True)
    assert not job_of(tmp_path, f"./{name}").exp_name.startswith(".")


@pytest.mark.slow
@pytest.mark.parametrize("size", [224, 225, 254, 300, 5000])
@pytest.mark.parametrize("char", ["m", "ü", "模"])
def test_a_long_path_makes_a_name_that_fits(tmp_path: Path, size: int, char: str) -> None:
    path = "/".join(["/models", *[char * 50] * (size // 50), char * (size % 50)])
    job = job_of(tmp_path, path)
    assert len(job.exp_name.encode()) <= MAX_BYTES
    assert job.exp_name.endswith("_ar_tok8192_blk1_temp0")
    (tmp_path / job.exp_name).mkdir()
    assert job.exp_name != job_of(tmp_path, path.replace("/models", "/others")).exp_name
    assert job.exp_name == job_of(tmp_path, path + "/").exp_name


def test_a_long_adapter_is_shortened_too() -> None:
    decode = decode_spec(lora=True, lora_path="/adapters/" + "a" * 250)
    for model in ("m", "m" * 250):
        name = derived_name(model, 256, decode, 0.0, marked=True)
        assert len(name.encode()) <= MAX_BYTES
        assert name.endswith("_draft_only_thr0")


def test_a_component_too_long_for_a_folder_is_no_folder(tmp_path: Path) -> None:
    assert len(job_of(tmp_path, "./" + "m" * 300).exp_name.encode()) <= MAX_BYTES


@pytest.mark.parametrize("text", ["a\nb", "a\tb", "a\x00b", "a\x1bb", "a\u2028b", "a\u202eb", "a\udc80b", "a\x7fb"])
def test_unprintable_characters_are_replaced_and_told_apart(text: str) -> None:
    assert label(text).isprintable()
    assert label(text).startswith("a_b-")
    assert label(text) != label(text + "c") != label("a_b")


def test_a_short_text_stays() -> None:
    assert shortened("m" * 100, 100) == "m" * 100
    assert len(shortened("ü" * 100, 100).encode()) <= 100


def test_the_root_folder_and_one_seen_from_it() -> None:
    assert model_label("/", Path("/"), Path("/x")) == "__"
    assert model_label("/m", Path("/m"), Path("/")) == "__m"


def test_what_follows_the_model_is_recognised() -> None:
    assert settings_of("a__b_dlm_tok64_blk8_temp0_thr0.9") == "_dlm_tok64_blk8_temp0_thr0.9"
    assert settings_of("mine") is None


@pytest.mark.process
def test_a_folder_with_an_earlier_name_is_continued(tmp_path: Path) -> None:
    """Releases before named a folder below the caller's by the path as it was typed."""
    (tmp_path / "m").mkdir()
    job = jobs_of(tmp_path, "mode=ar", "model.path=m", "cluster=local", "benchmarks=demo-math", "out_dir=out")[0]
    old_name = f"__old__m{settings_of(job.exp_name)}"
    old = Path(job.run_dir.replace(job.exp_name, old_name))
    write_json_atomic(RunPaths(old).manifest, {"prompts": {}})
    assert continue_or_start([job], fresh=False)[0].spec == job  # whose folder that is cannot be seen
    Manifest(dataclasses.replace(job, exp_name=old_name, run_dir=str(old)), RunPaths(old)).open({}, {})
    found = continue_or_start([job], fresh=False)[0].spec
    assert (found.exp_name, found.run_dir) == (old_name, str(old))
    mine = jobs_of(
        tmp_path, "mode=ar", "model.path=m", "cluster=local", "benchmarks=demo-math", "out_dir=out", "exp_name=mine"
    )[0]
    assert continue_or_start([mine], fresh=False)[0].spec == mine
