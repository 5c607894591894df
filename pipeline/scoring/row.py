"""One row's verdict: picks the scorer a benchmark names and asks it; orders finished rows as NeMo-Skills writes them.

Knows scorers by module name only, so that a scorer's libraries load with its first row and not before.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from pathlib import Path
from typing import cast

from trimode.pipeline.benchmarks import Benchmark
from trimode.pipeline.scoring.scorer import Row, Scorer
from trimode.workers.protocol import ConfigError

SCORER_MODULES = {
    "math": "math_answer",
    "multichoice": "multichoice",
    "ifeval": "ifeval",
    "code_tests": "code_tests",
    "evalplus": "plus",
    "livecodebench": "livecodebench",
}
"""A benchmark's `scorer` -> the module of this package that is it."""

REPLY_KEYS = (
    *("num_generated_tokens", "reasoning_content", "num_reasoning_tokens", "num_answer_tokens", "logprobs", "tokens"),
    *("top_logprobs", "finish_reason", "tool_calls", "serialized_output", "num_input_tokens"),
    *("generation_start_time", "generation_end_time", "generation_time"),
)
"""What a reply brings, in NeMo-Skills' order; the answer itself comes behind them."""
OWN_KEYS = ("error", "error_kind", "scoring_error")
"""Fields NeMo-Skills does not have; last in a row."""
DATA_FIRST = "math"
"""The scorer NeMo-Skills runs row by row: its rows begin with the data's fields, all others with the reply's."""


def scorer_of(benchmark: Benchmark) -> Scorer:
    """The scorer of `benchmark`. Raises ConfigError when it has none here."""
    if benchmark.scorer not in SCORER_MODULES:
        raise ConfigError(
            f"{benchmark.name} has no scorer here: got {benchmark.scorer!r}; valid: {', '.join(SCORER_MODULES)}"
            + (" (the nemo_skills client can run it)" if "nemo_skills" in benchmark.clients else "")
        )
    module = importlib.import_module(f"trimode.pipeline.scoring.{SCORER_MODULES[benchmark.scorer]}")
    return cast(Scorer, module)


def check_scorer(benchmark: Benchmark, data_dir: Path | None = None) -> None:
    """Returns when rows of `benchmark` can be scored here.

    Raises ConfigError that names the missing package or file and where to get it.
    """
    scorer_of(benchmark).check(benchmark, data_dir)


def score_row(benchmark: Benchmark, row: Row, data_dir: Path | None = None) -> Row:
    """The verdict fields to add to `row`, which holds the reply and the data's fields.

    A row whose request failed (`error`) counts as no answer. Pure and synchronous; may take seconds, and mathematics
    needs a main thread. Raises whatever the scorer raises on a row it cannot judge; ScoringPool keeps that to the row.
    """
    scorer = scorer_of(benchmark)
    if row.get("error"):
        return scorer.no_answer(benchmark, row)
    return scorer.score(benchmark, row, data_dir)


def unscored(benchmark: Benchmark, row: Row, reason: str) -> Row:
    """The verdict of a row that scoring could not judge: no answer, and why."""
    return {**scorer_of(benchmark).no_answer(benchmark, row), "scoring_error": reason}


def finish_rows(benchmark: Benchmark, rows: Iterable[Row]) -> list[Row]:
    """The rows with their keys in NeMo-Skills' order: mathematics data first, the others reply first; verdict last."""
    reply = (*REPLY_KEYS, benchmark.generation_key)
    verdict = scorer_of(benchmark).VERDICT_KEYS
    apart = {*reply, *verdict, *OWN_KEYS}
    return [_ordered(row, reply, verdict, apart, benchmark.scorer == DATA_FIRST) for row in rows]


def _ordered(row: Row, reply: tuple[str, ...], verdict: tuple[str, ...], apart: set[str], data_first: bool) -> Row:
    data = [key for key in row if key not in apart]
    order = [*data, *reply] if data_first else [*reply, *data]
    return {key: row[key] for key in (*order, *verdict, *OWN_KEYS) if key in row}
