"""The registry of scorers: one entry per scorer, the verdict of one row, and the key order of finished rows.

The registry names scorer modules and imports one only when its first row is scored, because their libraries are large.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, cast

from trimode.core.errors import ConfigError
from trimode.core.protocol import Row
from trimode.pipeline.benchmarks import Benchmark
from trimode.pipeline.scoring.scorer import Scorer

Measure = Callable[[Row], "Points"]
"""Returns the points of one scored row in a metric. Raises KeyError if the row has no verdict."""


class Points(NamedTuple):
    """One row's share in a metric. The metric is the mean over columns of sum(scored) / sum(possible) over all rows."""

    scored: tuple[float, ...]
    possible: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScorerFacts:
    """Everything about a scorer that is needed without loading its module."""

    module: str
    """Its module in this package."""
    measures: Mapping[str, Measure]
    """Name of the metric in metrics.json -> points of one row."""
    right: str | None = None
    """The measure that decides if a row is right. None = the benchmark's metric."""
    wrong: Row | None = None
    """Verdict fields that replace those of a reply longer than `max_seq_len`. None = no such limit with this scorer."""
    answer_key: str | None = None
    """Row field with the extracted answer. Where it is given, metrics.json also has no_answer and majority@k."""
    runs_programs: bool = False
    """True if it runs programs that models write."""
    pooled: Mapping[str, tuple[str, ...]] | None = None
    """A scorer of many instructions per prompt: statistic in metrics.json -> measures whose points it pools.

    None = one verdict per row; each measure then has a statistic of its own.
    """


def _answered(read: Callable[[Row], bool]) -> Measure:
    """One point for a right answer; `read` takes the verdict out of the row."""
    return lambda row: Points((float(read(row)),), (1.0,))


def _prompt(kind: str) -> Measure:
    """IFEval by prompt: every instruction followed."""
    return lambda row: Points((float(row[f"{kind}_eval"]["follow_all_instructions"]),), (1.0,))


def _instructions(kind: str) -> Measure:
    """IFEval by instruction: followed and asked."""
    return lambda row: Points(
        (float(sum(row[f"{kind}_eval"]["follow_instruction_list"])),),
        (float(len(row[f"{kind}_eval"]["follow_instruction_list"])),),
    )


def _average_score(row: Row) -> Points:
    """IFEval's mean of four: prompt and instruction accuracy, strict and loose."""
    parts = [rule(kind)(row) for kind in ("strict", "loose") for rule in (_prompt, _instructions)]
    return Points(tuple(p.scored[0] for p in parts), tuple(p.possible[0] for p in parts))


_SYMBOLIC = {"symbolic_correct": _answered(lambda row: row["symbolic_correct"])}
_NO_ANSWER: Row = {"symbolic_correct": False, "predicted_answer": None}
_BASE_TESTS = _answered(lambda row: row["is_correct"])
_PLUS_TESTS = _answered(lambda row: row["is_correct-plus"])

SCORERS: dict[str, ScorerFacts] = {
    "math": ScorerFacts(module="answers.math", measures=_SYMBOLIC, wrong=_NO_ANSWER, answer_key="predicted_answer"),
    "multichoice": ScorerFacts(
        module="answers.choice", measures=_SYMBOLIC, wrong=_NO_ANSWER, answer_key="predicted_answer"
    ),
    "ifeval": ScorerFacts(
        module="ifeval",
        measures={
            "prompt_strict_accuracy": _prompt("strict"),
            "instruction_strict_accuracy": _instructions("strict"),
            "prompt_loose_accuracy": _prompt("loose"),
            "instruction_loose_accuracy": _instructions("loose"),
            "average_score": _average_score,
        },
        right="prompt_strict_accuracy",
        pooled={
            "prompt": ("prompt_strict_accuracy", "prompt_loose_accuracy"),
            "instruction": ("instruction_strict_accuracy", "instruction_loose_accuracy"),
        },
    ),
    "code_tests": ScorerFacts(
        module="code.function_tests",
        measures={"passing_base_tests": _BASE_TESTS},
        wrong={"is_correct": False},
        runs_programs=True,
    ),
    "evalplus": ScorerFacts(
        module="code.plus",
        measures={
            "passing_base_tests": _BASE_TESTS,
            "passing_plus_tests": _PLUS_TESTS,
        },
        wrong={"is_correct": False, "is_correct-plus": False},
        runs_programs=True,
    ),
    "livecodebench": ScorerFacts(
        module="code.livecodebench",
        measures={"accuracy": _answered(lambda row: row["graded_list"][0])},
        wrong={"graded_list": [False]},
        runs_programs=True,
    ),
}
"""A benchmark's `scorer` -> its facts. A new scorer is one module of this package and one entry here."""

REPLY_KEYS = (
    *("num_generated_tokens", "reasoning_content", "num_reasoning_tokens", "num_answer_tokens", "logprobs", "tokens"),
    *("top_logprobs", "finish_reason", "tool_calls", "serialized_output", "num_input_tokens"),
    *("generation_start_time", "generation_end_time", "generation_time"),
)
"""Fields of a reply, in NeMo-Skills' order. The answer itself follows them."""
OWN_KEYS = ("error", "error_kind", "scoring_error")
"""Fields that NeMo-Skills does not have. They are last in a row."""
DATA_FIRST = "math"
"""Scorer whose rows begin with the data's fields in NeMo-Skills' files. All others begin with the reply's."""


def scorer_of(benchmark: Benchmark) -> Scorer:
    """Returns the scorer module of `benchmark`. Raises ConfigError if it has none here."""
    if benchmark.scorer not in SCORERS:
        raise ConfigError(
            f"{benchmark.name} has no scorer here: got {benchmark.scorer!r}; valid: {', '.join(SCORERS)}"
            + (" (the nemo_skills client can run it)" if "nemo_skills" in benchmark.clients else "")
        )
    module = importlib.import_module(f"trimode.pipeline.scoring.{SCORERS[benchmark.scorer].module}")
    return cast(Scorer, module)


def check_scorer(benchmark: Benchmark, data_dir: Path | None = None) -> None:
    """Checks that rows of `benchmark` can be scored here.

    Raises ConfigError that names the missing package or file and where to get it.
    """
    scorer_of(benchmark).check(benchmark, data_dir)


def score_row(benchmark: Benchmark, row: Row, data_dir: Path | None = None) -> Row:
    """Returns the verdict fields to add to `row`, which holds the reply and the data's fields.

    A row whose request failed (`error`) counts as no answer. May take seconds, and mathematics needs a main thread.
    Raises whatever the scorer raises on a row that it cannot judge. ScoringPool turns that into a `scoring_error`.
    """
    scorer = scorer_of(benchmark)
    if row.get("error"):
        return scorer.no_answer(benchmark, row)
    return scorer.score(benchmark, row, data_dir)


def unscored(benchmark: Benchmark, row: Row, reason: str) -> Row:
    """Returns the verdict of a row that could not be scored: no answer, and the reason as `scoring_error`."""
    return {**scorer_of(benchmark).no_answer(benchmark, row), "scoring_error": reason}


def finish_rows(benchmark: Benchmark, rows: Iterable[Row]) -> list[Row]:
    """Returns the rows with their keys in the order of NeMo-Skills.

    A promise: a finished file has the keys of NeMo-Skills' own file in the same order, so that a line-by-line diff of
    the two shows only real differences. Mathematics has the data first, the others the reply; the verdict is last.
    """
    reply = (*REPLY_KEYS, benchmark.generation_key)
    verdict = scorer_of(benchmark).VERDICT_KEYS
    apart = {*reply, *verdict, *OWN_KEYS}
    return [_ordered(row, reply, verdict, apart, benchmark.scorer == DATA_FIRST) for row in rows]


def _ordered(row: Row, reply: tuple[str, ...], verdict: tuple[str, ...], apart: set[str], data_first: bool) -> Row:
    data = [key for key in row if key not in apart]
    order = [*data, *reply] if data_first else [*reply, *data]
    return {key: row[key] for key in (*order, *verdict, *OWN_KEYS) if key in row}
