"""Strict and loose verdicts of whole rows, and where the punkt data may lie."""

from __future__ import annotations

from pathlib import Path

import nltk
import pytest
from trimode.core.errors import ConfigError
from trimode.pipeline.benchmarks import load_benchmark
from trimode.pipeline.data.load import load_rows
from trimode.pipeline.scoring import ifeval
from trimode.tests.goldens import DATA, FULL, needs_full, rows, value

BENCHMARK = load_benchmark("ifeval")
ROW = {
    "prompt": "p",
    "instruction_id_list": ["punctuation:no_comma", "startend:quotation"],
    "kwargs": [{}, {"x": None}],
}


def test_loose_forgives_first_and_last_lines() -> None:
    verdict = ifeval.score(BENCHMARK, {**ROW, "response": 'Sure, here:\n"text"'}, None)
    assert verdict["strict_eval"]["follow_instruction_list"] == [False, False]
    assert verdict["loose_eval"] == {
        "follow_all_instructions": True,
        "follow_instruction_list": [True, True],
        "instruction_id_list": ROW["instruction_id_list"],
        "prompt": "p",
        "response": 'Sure, here:\n"text"',
    }


def test_there_are_eight_variants() -> None:
    assert ifeval.variants("a\n*b*\nc") == ["a\n*b*\nc", "*b*\nc", "a\n*b*", "*b*", "a\nb\nc", "b\nc", "a\nb", "b"]


def test_no_answer_follows_nothing() -> None:
    verdict = ifeval.score(BENCHMARK, {**ROW, "response": None}, None)
    assert verdict["loose_eval"]["follow_instruction_list"] == [False, False]


def test_missing_punkt_is_an_error_with_url_and_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nltk.data, "path", [])
    with pytest.raises(ConfigError, match=r"prepare nltk_punkt.*https://.*punkt_tab.zip into .*nltk_punkt/tokenizers"):
        ifeval.check(BENCHMARK, tmp_path)


def test_the_bundled_benchmark_needs_no_punkt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nltk.data, "path", [])
    demo = load_benchmark("demo-if")
    ifeval.check(demo, None)
    for row in load_rows(demo, None):
        ifeval.score(demo, {**row, "response": "A text."}, None)


@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_nemo_skills(seed: int) -> None:
    for row in rows(f"if_eval/ifeval/output-rs{seed}.jsonl"):
        verdict = ifeval.score(BENCHMARK, row, None)
        assert verdict == {key: row[key] for key in verdict}, row["key"]


@needs_full
@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_nemo_skills_on_every_recorded_row(seed: int) -> None:
    unstable = {key for keys in value("if_eval/unstable_keys.json", FULL).values() for key in keys}
    for row in rows(f"if_eval/ifeval/output-rs{seed}.jsonl", FULL):
        if row["key"] not in unstable:
            verdict = ifeval.score(BENCHMARK, row, DATA)
            assert verdict == {key: row[key] for key in verdict}, row["key"]
