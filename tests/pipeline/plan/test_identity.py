"""A run folder's name changes with what changes answers, and with nothing else."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from trimode.core.errors import ConfigError
from trimode.pipeline import benchmarks
from trimode.pipeline.plan.identity import folder_fingerprint
from trimode.tests.fakes.sweeps import jobs_of, local_jobs

RELEASE_0_1 = ["eval_2b3f17bdb9e9", "eval_2de2c4733268", "eval_003514a648dc"]
"""Names of ar, dlm and linear_spec with the default settings and model."""


def name_of(cwd: Path, *overrides: str) -> str:
    return Path(local_jobs(cwd, "mode=dlm", *overrides)[0].run_dir).name


@pytest.mark.parametrize(
    "override",
    [
        "limit=3",
        "balancer.workers=2",
        "cluster.gpus=2",
        "cluster.time_limit=5",
        "balancer.max_num_seqs=7",
        "benchmarks=gsm8k:4",
        "client.num_scorers=1",
        "max_thinking_tokens=5",  # thinking is off
        "top_p=0.5",  # greedy
        "starting_seed=7",
        "temperature=-0.0",
        "modes.dlm.threshold=9e-1",
        "balancer.kv_cache_gb=1",
        "balancer.start_timeout_s=60",
        "model.tokenizer=./model",  # the model's own
        "model.revision=null",
        "model.quantization=none",
        "model.batch_invariant=false",
        "jobs_per=benchmark",
        "wait=true",
        "fresh=true",
        "exp_name=other",
        "out_dir=elsewhere",
    ],
)
def test_the_name_stays(tmp_path: Path, override: str) -> None:
    assert name_of(tmp_path, override) == name_of(tmp_path)


@pytest.mark.parametrize(
    "override",
    [
        "modes.dlm.block_length=4",
        "modes.dlm.threshold=0.8",
        "modes.dlm.threshold=null",
        "max_new_tokens=64",
        "temperature=0.5",
        "enable_thinking=true",
        "eos_early_stop=false",
        "model.dtype=float32",
        "model.quantization=fp8",
        "model.quantization=w4a16",
        "model.tokenizer=./tok",
        "model.path=some/hub-id",
        "modes.dlm.max_model_len=9000",
    ],
)
def test_the_name_changes(tmp_path: Path, override: str) -> None:
    (tmp_path / "tok").mkdir()
    (tmp_path / "tok" / "tokenizer.json").write_text("{}")
    assert name_of(tmp_path, override) != name_of(tmp_path)


@pytest.mark.parametrize("override", ["top_p=0.5", "starting_seed=1", "temperature=0.6"])
def test_the_name_changes_with_what_sampling_reads(tmp_path: Path, override: str) -> None:
    assert name_of(tmp_path, "temperature=0.5", override) != name_of(tmp_path, "temperature=0.5")


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the benchmarks' files, which the registry reads instead."""
    folder = tmp_path / "benchmark"
    shutil.copytree(benchmarks.BENCHMARK_DIR, folder)
    monkeypatch.setattr(benchmarks, "BENCHMARK_DIR", folder)
    forget()
    yield folder
    forget()


def forget() -> None:
    for cached in (benchmarks.benchmark_names, benchmarks.load_benchmark):
        cached.cache_clear()


def test_a_new_benchmark_or_an_edited_one_renames_no_other(tmp_path: Path, registry: Path) -> None:
    before = name_of(tmp_path, "benchmarks=gsm8k")
    text = (registry / "gsm8k.yaml").read_text()
    (registry / "gsm8k-new.yaml").write_text(text.replace("name: gsm8k", "name: gsm8k-new"))
    (registry / "mbpp.yaml").write_text((registry / "mbpp.yaml").read_text().replace("Here is", "There is"))
    forget()
    assert name_of(tmp_path, "benchmarks=gsm8k") == before
    assert name_of(tmp_path, "benchmarks='gsm8k,gsm8k-new'") == before


def test_folders_of_earlier_releases_keep_their_names(tmp_path: Path) -> None:
    hub = ("model.path=nvidia/Nemotron-Labs-Diffusion-8B", "cluster=local")
    assert [Path(job.run_dir).name for job in jobs_of(tmp_path, *hub)] == RELEASE_0_1


def test_what_is_quantised_and_how_is_part_of_the_name(tmp_path: Path) -> None:
    fp8, w4a16 = "model.quantization=fp8", "model.quantization=w4a16"
    names = {name_of(tmp_path, *extra) for extra in ((), (fp8,), (w4a16,), (w4a16, "model.quantize_head=true"))}
    assert len(names) == 4


def test_a_quantised_folder_is_known_by_its_content_and_is_not_quantised_again(tmp_path: Path) -> None:
    plain = name_of(tmp_path)
    (tmp_path / "model" / "config.json").write_text('{"quantization_config": {"quant_method": "awq"}}')
    assert name_of(tmp_path) != plain
    with pytest.raises(ConfigError, match=r"is quantised \(awq\): got fp8; valid: none, which runs it as it is"):
        name_of(tmp_path, "model.quantization=fp8")


def test_the_adapter_is_part_of_the_name(tmp_path: Path) -> None:
    for number in "12":
        (tmp_path / number).mkdir()
        (tmp_path / number / "adapter_model.safetensors").write_text(number)
    names = {
        Path(jobs_of(tmp_path, "model.path=hub/m", "mode=linear_spec", *extra)[0].run_dir).name
        for extra in (
            (),
            ("modes.linear_spec.lora=true", "model.lora_path=1"),
            ("modes.linear_spec.lora=true", "model.lora_path=2"),
        )
    }
    assert len(names) == 3


def test_a_folder_is_known_by_its_content_not_by_place_or_time(tmp_path: Path) -> None:
    for place in ("here", "there"):
        folder = tmp_path / place
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(bytes(5 << 20))
        (folder / "README.md").write_text(place)
    before = folder_fingerprint(tmp_path / "here")
    assert folder_fingerprint(tmp_path / "there") == before
    with (tmp_path / "there" / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"x")
    assert folder_fingerprint(tmp_path / "there") != before
    (tmp_path / "here" / "config.json").write_text("[]")
    assert folder_fingerprint(tmp_path / "here") != before
