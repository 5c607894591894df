"""User messages against sha256 of the ones NeMo-Skills sends."""

import hashlib
import json
from pathlib import Path

import pytest
from trimode.core.errors import ConfigError
from trimode.pipeline.benchmarks import Benchmark, load_benchmark
from trimode.pipeline.data import load_rows
from trimode.pipeline.data.prompts import user_message

SHARED = Path(__file__).resolve().parents[4] / "shared"
PROMPTS = SHARED / "goldens" / "nemo_skills" / "prompts.jsonl"
DATA = SHARED / "data"
WITH_DATA = ("gsm8k", "math-500", "aime24", "aime25", "human-eval", "mbpp", "mmlu", "ifeval")

needs_goldens = pytest.mark.skipif(not PROMPTS.is_file(), reason="needs the goldens of NeMo-Skills beside the checkout")


def _goldens(benchmark: str) -> list[dict]:
    rows = [json.loads(line) for line in PROMPTS.read_text(encoding="utf-8").splitlines()]
    return [row for row in rows if row["benchmark"] == benchmark]


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _benchmark(prompt: str) -> Benchmark:
    return Benchmark(name="toy", prompt_config="toy", prompt=prompt, num_samples=1, scorer="math", metric="m")


@needs_goldens
@pytest.mark.parametrize("name", [*WITH_DATA, "mmlu-pro", "gpqa", "livecodebench"])
def test_the_message_of_every_golden_row_is_equal_byte_for_byte(name: str) -> None:
    benchmark = load_benchmark(name)
    goldens = [golden for golden in _goldens(name) if "row" in golden]
    assert goldens
    for golden in goldens:
        assert _sha256(user_message(benchmark, golden["row"])) == golden["sha256"]
        assert golden["prompt_config"] == benchmark.prompt_config


@needs_goldens
@pytest.mark.parametrize("name", WITH_DATA)
def test_rows_loaded_from_raw_files_give_the_golden_messages(name: str) -> None:
    benchmark = load_benchmark(name)
    rows = load_rows(benchmark, DATA)
    for golden in _goldens(name):
        assert _sha256(user_message(benchmark, rows[golden["index"]])) == golden["sha256"]


def test_braces_of_a_row_stay_and_doubled_ones_of_the_prompt_become_single() -> None:
    row = {"problem": r"Is \frac{1}{2} in {x}?"}
    assert user_message(_benchmark("Use \\boxed{{}}.\n{problem}"), row) == "Use \\boxed{}.\n" + row["problem"]


def test_a_row_without_the_prompts_field_is_a_config_error_that_names_it() -> None:
    with pytest.raises(ConfigError, match=r"'problem'.*question"):
        user_message(_benchmark("{problem}"), {"question": "?"})
