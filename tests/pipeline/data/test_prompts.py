"""User messages against sha256 of the ones NeMo-Skills sends."""

import hashlib
from typing import Any

import pytest
from trimode.core.errors import ConfigError
from trimode.pipeline.benchmarks import Benchmark, load_benchmark
from trimode.pipeline.data import load_rows
from trimode.pipeline.data.prompts import user_message
from trimode.tests.goldens import DATA, FULL, needs_full, rows

WITH_DATA = ("gsm8k", "math-500", "aime24", "aime25", "human-eval", "mbpp", "mmlu", "ifeval")
HEADS = rows("prompts.jsonl")


def _recorded(benchmark: str) -> list[dict[str, Any]]:
    return [row for row in rows("prompts.jsonl", FULL) if row["benchmark"] == benchmark]


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _benchmark(prompt: str) -> Benchmark:
    return Benchmark(name="toy", prompt_config="toy", prompt=prompt, num_samples=1, scorer="math", metric="m")


@pytest.mark.parametrize("name", [*WITH_DATA, "mmlu-pro", "gpqa", "livecodebench"])
def test_the_message_of_bundled_rows_is_equal_byte_for_byte(name: str) -> None:
    benchmark = load_benchmark(name)
    heads = [head for head in HEADS if head["benchmark"] == name]
    assert heads
    for head in heads:
        message = user_message(benchmark, load_rows(load_benchmark(head["rows"]), None)[head["index"]])
        assert message == head.get("message", message)
        assert _sha256(message) == head["sha256"]
        assert head["prompt_config"] == benchmark.prompt_config


@needs_full
@pytest.mark.parametrize("name", [*WITH_DATA, "mmlu-pro", "gpqa", "livecodebench"])
def test_the_message_of_every_recorded_row_is_equal_byte_for_byte(name: str) -> None:
    benchmark = load_benchmark(name)
    recorded = [golden for golden in _recorded(name) if "row" in golden]
    assert recorded
    for golden in recorded:
        assert _sha256(user_message(benchmark, golden["row"])) == golden["sha256"]
        assert golden["prompt_config"] == benchmark.prompt_config


@needs_full
@pytest.mark.parametrize("name", WITH_DATA)
def test_rows_loaded_from_raw_files_give_the_recorded_messages(name: str) -> None:
    benchmark = load_benchmark(name)
    found = load_rows(benchmark, DATA)
    for golden in _recorded(name):
        assert _sha256(user_message(benchmark, found[golden["index"]])) == golden["sha256"]


def test_braces_of_a_row_stay_and_doubled_ones_of_the_prompt_become_single() -> None:
    row = {"problem": r"Is \frac{1}{2} in {x}?"}
    assert user_message(_benchmark("Use \\boxed{{}}.\n{problem}"), row) == "Use \\boxed{}.\n" + row["problem"]


def test_a_row_without_the_prompts_field_is_a_config_error_that_names_it() -> None:
    with pytest.raises(ConfigError, match=r"'problem'.*question"):
        user_message(_benchmark("{problem}"), {"question": "?"})
