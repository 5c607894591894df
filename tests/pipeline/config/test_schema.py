"""The groups of conf/ fill the typed config with the reference's values, and a typo names its class."""

from __future__ import annotations

import pytest
import yaml
from trimode.core.errors import ConfigError
from trimode.core.project import CONF_DIR, PROJECT_DIR
from trimode.core.protocol import MODE_DEFAULTS, Mode
from trimode.pipeline.config.compose import compose
from trimode.tests.fakes.sweeps import config_of


def test_defaults_are_the_references() -> None:
    config = config_of()
    assert {name: mode.mode for name, mode in config.modes.items()} == {
        mode.value: mode for mode in (Mode.ar, Mode.dlm, Mode.linear_spec)
    }
    assert {name: mode.max_model_len for name, mode in config.modes.items()} == {
        "ar": 65536,
        "dlm": 20480,
        "linear_spec": 20480,
    }
    assert [mode.max_position_embeddings for mode in config.modes.values()] == [None, None, None]
    assert (config.max_new_tokens, config.max_thinking_tokens, config.temperature) == (8192, 6000, 0.0)
    assert (config.cluster.gpus, config.cluster.cpus_per_task, config.cluster.mem_gb) == (8, 48, 256)
    assert config.balancer.max_num_seqs == 1
    assert [choice.name for choice in config.benchmarks] == (
        ["gsm8k", "human-eval", "mbpp", "math-500", "aime24", "aime25", "gpqa", "mmlu", "ifeval", "livecodebench-cpp"]
    )


@pytest.mark.parametrize("mode", Mode)
def test_the_file_of_a_mode_holds_its_defaults(mode: Mode) -> None:
    values = yaml.safe_load((CONF_DIR / "mode" / f"{mode.value}.yaml").read_text(encoding="utf-8"))
    assert (values["mode"], values["block_length"], values["threshold"]) == (
        mode.value,
        MODE_DEFAULTS[mode].block_length,
        MODE_DEFAULTS[mode].threshold,
    )


def test_a_mode_entry_is_touched_dropped_and_added() -> None:
    config = config_of("modes.dlm.block_length=64", "~modes.ar", "mode=all")
    assert list(config.modes) == ["dlm", "linear_spec"]
    assert config.modes["dlm"].block_length == 64
    assert list(config_of("mode=[ar,dlm]").modes) == ["ar", "dlm"]
    assert config_of("+mode@modes.dlm16=dlm", "modes.dlm16.block_length=16").modes["dlm16"].mode is Mode.dlm


def test_the_demo_has_five_rows() -> None:
    config = config_of("mode=demo", "suite=demo", "model=demo", "cluster=local")
    assert [(mode.mode.value, mode.lora, mode.block_length) for mode in config.modes.values()] == [
        ("ar", False, 1),
        ("dlm", False, 32),
        ("linear_spec", False, 32),
        ("linear_spec", True, 32),
        ("auto", False, 32),
    ]
    assert config.modes["dlm"].threshold == 0.9
    assert config.model.path == str(PROJECT_DIR / "assets" / "demo_model")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("modes.dlm.blok_length=64", "did you mean modes.dlm.block_length? valid in modes.dlm: mode"),
        ("balancer.device=gpu", "got 'gpu'; valid: auto, cpu, cuda"),
        ("modes.dlm.block_length=many", "block_length: got 'many'; valid: a whole number"),
        ("mode=fast", "mode: got 'fast'; valid: all, ar, auto"),
        ("cluster=moon", "cluster: got 'moon'; valid: apptainer"),
        ("~modes.fast", "'modes.fast' does not exist"),
        ("benchmarks=a:1,b:1", "sweep"),
    ],
)
def test_a_typo_is_named(override: str, words: str) -> None:
    with pytest.raises(ConfigError) as error:
        compose([override])
    assert words in str(error.value)


def test_the_environment_gives_the_clusters_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCOUNT", "us")
    monkeypatch.setenv("SERVER_PARTITION", "night")
    monkeypatch.setenv("SERVER_TIME", "30")
    monkeypatch.setenv("OUT_DIR", "there")
    monkeypatch.setenv("CONTAINER_IMAGE", "i.sqsh")
    config = config_of()
    cluster = config.cluster
    assert (cluster.account, cluster.partition, cluster.time_limit) == ("us", "night", "30")
    assert (cluster.container_image, config.out_dir) == ("i.sqsh", "there")
