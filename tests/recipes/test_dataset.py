"""The demo data: disjoint sides, deterministic rows, rows that the scorers of the benchmarks understand."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from trimode.recipes.demo import dataset


def committed_rows(name: str) -> list[dict[str, Any]]:
    lines = (dataset.BENCHMARKS_DIR / name / "test.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_no_test_prompt_occurs_in_training() -> None:
    prompts = dataset.load_prompts()
    test_messages = {prompts[name].format(**row) for name in dataset.BENCHMARKS for row in committed_rows(name)}
    assert all(map(dataset.is_test, test_messages))
    trained = {message for message, _ in dataset.Sampler().train_pairs(4000, "train-0-0")}
    assert not any(map(dataset.is_test, trained))
    assert not trained & test_messages


@pytest.mark.parametrize("name", dataset.BENCHMARKS)
def test_the_committed_test_file_is_what_the_generator_writes(name: str) -> None:
    committed = (dataset.BENCHMARKS_DIR / name / "test.jsonl").read_text()
    assert committed == "\n".join(dataset.benchmark_lines(name)) + "\n"


def test_train_pairs_are_a_function_of_the_seed() -> None:
    assert dataset.Sampler().train_pairs(40, "a") == dataset.Sampler().train_pairs(40, "a")
    assert dataset.Sampler().train_pairs(40, "a") != dataset.Sampler().train_pairs(40, "b")


@pytest.mark.parametrize("name", dataset.BENCHMARKS)
def test_problems_are_distinct(name: str) -> None:
    rows = committed_rows(name)
    prompt = dataset.load_prompts()[name]
    assert len({prompt.format(**row) for row in rows}) == len(rows) == dataset.NUM_TEST


@pytest.mark.parametrize("name", ["demo-math", "demo-long"])
def test_math_answer_is_in_the_last_box(name: str) -> None:
    for row in committed_rows(name):
        assert row["reference_solution"].endswith(f"\\boxed{{{row['expected_answer']}}}.")


@pytest.mark.parametrize("name", ["demo-math", "demo-long"])
def test_math_steps_are_true(name: str) -> None:
    for _, example in dataset.Sampler().test_examples(name, 100):
        for word in example.answer.split():
            if "=" in word:
                left, right = word.split("=")
                assert eval(left) == int(right)  # digits and one operator, from our own generator


def test_long_problems_go_beyond_those_of_the_training() -> None:
    def most(name: str) -> tuple[int, int]:
        """Returns the most steps, and the largest number of an event behind the first two steps."""
        worked = [row["reference_solution"].split("=")[:-1] for row in committed_rows(name)]
        later = [int(re.split("[-+*/]", step)[-1]) for steps in worked for step in steps[2:]]
        return max(map(len, worked)), max(later)

    assert most("demo-math") == (4, 9)
    assert most("demo-long")[0] == 5
    assert most("demo-long")[1] > 30


def test_nothing_is_trained_on_long_problems() -> None:
    assert "demo-long" in dataset.BENCHMARKS
    assert "demo-long" not in dataset.EQUAL_SHARES


def test_choice_options_are_distinct_and_in_the_problem() -> None:
    for row in committed_rows("demo-mcq"):
        options = [row[letter] for letter in "ABCD"]
        assert len(set(options)) == 4
        assert row["problem"].endswith("\n\n" + row["options"])


def test_code_answer_passes_its_unit_tests() -> None:
    for _, example in dataset.Sampler().test_examples("demo-code", 100):
        code = example.answer.removeprefix("```python\n").removesuffix("```")
        namespace: dict[str, Any] = {}
        exec(example.row["prompt"] + code + example.row["test"], namespace)
        namespace["check"](namespace[example.row["entry_point"]])


def test_instruction_answers_follow_the_plain_instructions() -> None:
    for _, example in dataset.Sampler().test_examples("demo-if", 200):
        pairs = zip(example.row["instruction_id_list"], example.row["kwargs"], strict=True)
        for identifier, kwargs in pairs:
            assert follows(identifier, kwargs, example.answer), (identifier, example.answer)


def follows(identifier: str, kwargs: dict[str, Any], text: str) -> bool:
    checks: dict[str, Callable[[], bool]] = {
        "punctuation:no_comma": lambda: "," not in text,
        "keywords:existence": lambda: all(word in text for word in kwargs["keywords"]),
        "keywords:frequency": lambda: text.count(kwargs["keyword"]) >= kwargs["frequency"],
        "change_case:english_lowercase": lambda: text == text.lower(),
        "startend:end_checker": lambda: text.strip('"').lower().endswith(kwargs["end_phrase"].lower()),
        "startend:quotation": lambda: text[0] == text[-1] == '"',
        "detectable_format:number_bullet_lists": lambda: text.count("* The") == kwargs["num_bullets"],
        "detectable_format:title": lambda: "<<" in text and ">>" in text,
        "detectable_content:postscript": lambda: kwargs["postscript_marker"] in text,
        "detectable_format:number_highlighted_sections": lambda: text.count("*") == 2 * kwargs["num_highlights"],
        "detectable_content:number_placeholders": lambda: text.count("[") == kwargs["num_placeholders"],
    }
    return checks[identifier]()


def test_every_prompt_config_names_its_bundled_file() -> None:
    for name in dataset.BENCHMARKS:
        assert Path(dataset.BENCHMARKS_DIR / name / "test.jsonl").is_file()
