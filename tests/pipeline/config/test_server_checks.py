"""Flags and rules of an evaluation that asks a running server."""

from __future__ import annotations

import pytest
from trimode.core.errors import ConfigError
from trimode.pipeline.config.checks import check
from trimode.pipeline.config.compose import compose
from trimode.pipeline.config.flags import to_overrides
from trimode.pipeline.config.schema import Backend, Config
from trimode.pipeline.spec import Executor

URL = "http://gpu7:8000"


def config_of(*flags: str) -> Config:
    config = compose(to_overrides(flags))
    check(config)
    return config


def test_a_server_runs_here_with_one_mode_and_no_model_of_ours() -> None:
    config = config_of("--server", URL)
    assert (config.balancer.backend, config.balancer.url) == (Backend.openai, URL)
    assert config.cluster.executor is Executor.local
    assert list(config.modes) == ["ar"]
    assert config.model.path == ""


def test_its_flags_reach_their_settings() -> None:
    config = config_of(
        *("--server", URL, "--model", "m", "--mode", "linear_spec", "--engine", "sglang-b16", "--max-in-flight", "3"),
        *("--api-key-file", "k", "+balancer.fields.top_k=1", "+balancer.fields.chat_template_kwargs=null"),
    )
    assert (config.model.path, list(config.modes)) == ("m", ["linear_spec"])
    assert (config.balancer.engine, config.balancer.max_in_flight) == ("sglang-b16", 3)
    assert config.balancer.api_key_file == "k"
    assert config.balancer.fields == {"top_k": 1, "chat_template_kwargs": None}


def test_the_demo_of_a_server_is_the_demo_benchmarks() -> None:
    config = config_of("--server", URL, "--demo")
    assert [choice.name for choice in config.benchmarks] == [
        "demo-math",
        "demo-long",
        "demo-mcq",
        "demo-code",
        "demo-if",
    ]
    assert config.model.path == ""


def test_hydra_names_it_as_a_group() -> None:
    config = compose(["balancer=openai", f"balancer.url={URL}", "mode=[ar]", "model=served", "cluster=bare"])
    check(config)
    assert config.balancer.backend is Backend.openai


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--block-length 16", "--block-length with --server"),
        ("--threshold 0.5", "--threshold with --server"),
        ("--lora", "--lora with --server"),
        ("--batch-size 4", "--batch-size with --server"),
        ("--gpus 1", "--gpus with --server"),
        ("--device cpu", "--device with --server"),
        ("--quantization fp8", "--quantization with --server"),
        ("--no-eos-early-stop", "--no-eos-early-stop with --server"),
        ("--calibrate", "--calibrate with --server"),
        ("calibrate=true", "calibrate: the time of a running server"),
        ("--mode ar,dlm", "decodes in one way"),
        ("--engine a/b", "balancer.engine"),
        ("--max-in-flight 0", "balancer.max_in_flight"),
        ("client=nemo_skills", "valid: embedded"),
        ("+balancer.fields.stream=true", "balancer.fields.stream"),
        ("+balancer.fields.temperature=1", "is --temperature"),
        ("+balancer.fields.messages=null", "the sample's prompt"),
        ("eos_early_stop=false", "balancer.fields.ignore_eos=true"),
        ("model.lora_path=x", "model.lora_path"),
        ("modes.ar.max_position_embeddings=64", "max_position_embeddings"),
    ],
)
def test_what_only_the_server_decides_is_refused(flags: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        config_of("--server", URL, *flags.split())


@pytest.mark.parametrize("flags", ["--api-key-file k", "--engine x", "--max-in-flight 2"])
def test_flags_of_a_server_need_one(flags: str) -> None:
    with pytest.raises(ConfigError, match="give --server too"):
        to_overrides(["--mode", "ar", *flags.split()])


@pytest.mark.parametrize("setting", ["balancer.url=http://x", "balancer.api_key_file=k", "+balancer.fields.a=1"])
def test_settings_of_a_server_need_the_backend(setting: str) -> None:
    with pytest.raises(ConfigError, match="acts with a running server only"):
        check(compose(["mode=[ar]", setting]))


def test_an_address_is_needed() -> None:
    with pytest.raises(ConfigError, match="url"):
        check(compose(["mode=[ar]", "balancer=openai"]))
