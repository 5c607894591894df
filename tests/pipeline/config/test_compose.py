"""Texts of the config are parsed once, and a wrong one is refused with what came and what is valid."""

from __future__ import annotations

import pytest
from trimode.core.errors import ConfigError
from trimode.core.protocol import Mode
from trimode.pipeline.config.compose import compose, parse_benchmarks, parse_time
from trimode.pipeline.config.schema import BenchmarkChoice


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("cluster.time_limit=soon", "time limit: got 'soon'; valid: minutes, M:S"),
        ("benchmarks=gsm8", "unknown benchmark: got 'gsm8'; valid: aime24"),
        ("benchmarks=gsm8k:0", "repeats of gsm8k: got '0'; valid: a whole number from 1"),
        ("benchmarks=gsm8k:x", "repeats of gsm8k: got 'x'"),
        ("benchmarks='gsm8k,gsm8k:2'", "each stands once; got gsm8k twice"),
        ("benchmarks='gsm8k,'", "got an empty name"),
        ("benchmarks=3", "benchmarks: got 3"),
    ],
)
def test_a_wrong_text_is_refused(override: str, words: str) -> None:
    with pytest.raises(ConfigError) as error:
        compose([override])
    assert words in str(error.value)


def test_the_config_holds_what_the_texts_mean() -> None:
    config = compose(["benchmarks=[gsm8k:4,ifeval]", "cluster.time_limit='1-2:30'"])
    assert config.benchmarks == (BenchmarkChoice("gsm8k", 4), BenchmarkChoice("ifeval", 1))
    assert (config.cluster.time_limit, config.cluster.time_limit_min) == ("1-2:30", 1590)


@pytest.mark.parametrize("name", ["linear_spec", "LINEAR_SPEC"])
def test_a_mode_is_named_as_it_is_written_and_as_before(name: str) -> None:
    assert compose(["mode=ar", f"modes.ar.mode={name}"]).modes["ar"].mode is Mode.linear_spec


def test_a_name_alone_is_one_repeat() -> None:
    assert parse_benchmarks("gsm8k, mbpp:1,aime24:4") == (
        BenchmarkChoice("gsm8k", 1),
        BenchmarkChoice("mbpp", 1),
        BenchmarkChoice("aime24", 4),
    )


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("90", 90), ("04:00:00", 240), ("2:30", 3), ("0:01", 1), ("1-0", 1440), ("1-2:30", 1590), ("1-00:00:01", 1441)],
)
def test_times_are_slurms(text: str, minutes: int) -> None:
    assert parse_time(text) == minutes


@pytest.mark.parametrize("text", ["", "0", "0:00", "-5", "1:2:3:4", "4h"])
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="time limit: got"):
        parse_time(text)
