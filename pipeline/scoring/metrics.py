"""Accuracy of one benchmark over its seeds: the content of NeMo-Skills 0.7.0's metrics.json, key by key, in its order.

Sums run left to right, as in NeMo-Skills, so that even the last digits agree.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from trimode.core.protocol import Row
from trimode.pipeline.benchmarks import Benchmark
from trimode.pipeline.scoring.registry import SCORERS, Measure, ScorerFacts

Attempts = Sequence[Row]
"""One problem's rows, one per seed."""
Table = dict[str, Any]
"""One aggregation of metrics.json."""

ALL_ROWS = "_all_"


def compute_metrics(
    benchmark: Benchmark,
    seeds: Sequence[Sequence[Row]],
    max_seq_len: int | None = None,
    max_samples: int | None = None,
) -> dict[str, dict[str, Table]]:
    """Returns `{"<benchmark>": {aggregation: {...}}, "<benchmark>-<subset>": ...}` of scored rows, one list per seed.

    All seeds hold the same problems in the same order. Only the first `max_samples` problems count, and a reply of more
    than `max_seq_len` tokens counts as wrong. Values are percentages, except in `*_statistics` (fractions or tokens).
    Raises ValueError if the seeds differ in length or the scorer has no such metrics.
    """
    if benchmark.scorer not in SCORERS:
        valid = ", ".join(SCORERS)
        raise ValueError(f"no metrics for the scorer of {benchmark.name}: got {benchmark.scorer!r}; valid: {valid}")
    if len({len(rows) for rows in seeds}) != 1:
        counts = [len(rows) for rows in seeds]
        raise ValueError(f"the seeds of {benchmark.name} must have equally many rows; got {counts}")
    problems = [_attempts(rows) for rows in zip(*seeds, strict=True)][:max_samples]
    if max_seq_len is not None:
        problems = [_attempts(_limited(benchmark, row, max_seq_len) for row in attempts) for attempts in problems]
    groups: dict[str, list[Attempts]] = {ALL_ROWS: problems}
    for attempts in problems:
        subset = attempts[0].get("subset_for_metrics", ALL_ROWS)
        if isinstance(subset, str | int | float) and subset != ALL_ROWS:  # others cannot be part of a name
            groups.setdefault(str(subset), []).append(attempts)
    facts = SCORERS[benchmark.scorer]
    return {
        benchmark.name if subset == ALL_ROWS else f"{benchmark.name}-{subset}": _tables(facts, group)
        for subset, group in groups.items()
    }


def _attempts(rows: Iterable[Row]) -> Attempts:
    return tuple(rows)


def _limited(benchmark: Benchmark, row: Row, max_seq_len: int) -> Row:
    """Returns `row`, or a wrong one if its reply is too long.

    As in NeMo-Skills, the wrong one keeps the row's other fields only if the scorer extracts answers.
    """
    facts = SCORERS[benchmark.scorer]
    if facts.wrong is None:
        raise ValueError(f"max_seq_len is not defined for instructions: got {max_seq_len} for {benchmark.name}")
    if int(row["num_generated_tokens"]) <= max_seq_len:
        return row
    return dict(facts.wrong) if facts.answer_key is None else {**row, **facts.wrong}


def _tables(facts: ScorerFacts, problems: Sequence[Attempts]) -> dict[str, Table]:
    if not problems:
        return {}
    if facts.pooled is None:
        scores = {name: _scores(problems, (measure,)) for name, measure in facts.measures.items()}
        tables = _answer_tables(facts, problems, scores)
    else:
        scores = {
            name: _scores(problems, [facts.measures[measure] for measure in measures])
            for name, measures in facts.pooled.items()
        }
        tables = _instruction_tables(facts, problems)
    for k in range(2, len(problems[0]) + 1):
        for name, lists in (_token_counts(problems) | scores).items():
            tables[f"pass@1[avg-of-{k}]"][f"{name}_statistics"] = _statistics(lists, k)
    return tables


def _scores(problems: Sequence[Attempts], measures: Sequence[Measure]) -> list[list[int]]:
    """Points of every attempt, one list per problem and measure; the measures of a problem follow each other."""
    return [[int(measure(row).scored[0]) for row in rows] for rows in problems for measure in measures]


def _answer_tables(
    facts: ScorerFacts, problems: Sequence[Attempts], scores: dict[str, list[list[int]]]
) -> dict[str, Table]:
    """Percentages per aggregation for scorers with one right or wrong answer."""
    common, num_seeds = _common(problems), len(problems[0])
    names = [name for k in range(1, num_seeds + 1) for name in _pass_names(k)]
    tables: dict[str, Table] = {name: dict(common) for name in names}
    for measure, lists in scores.items():
        for k in range(1, num_seeds + 1):
            for name, score in _pass_names(k).items():
                tables[name][measure] = _percent([score(values, k) for values in lists])
    if facts.answer_key is not None:
        _add_answers(tables, [[row[facts.answer_key] for row in rows] for rows in problems], scores, common)
    return tables


def _add_answers(
    tables: dict[str, Table], answers: list[list[str | None]], scores: dict[str, list[list[int]]], common: Table
) -> None:
    """Adds what only extracted answers allow: `no_answer` of every aggregation, and the majority tables."""
    num_seeds = len(answers[0])
    for k in range(1, num_seeds + 1):
        missing = [[answer is None for answer in row[:k]] for row in answers]
        for name in _pass_names(k):
            mean = name.startswith("pass@1[")
            tables[name]["no_answer"] = _percent([sum(row) / k if mean else float(all(row)) for row in missing])
    for k in range(2, num_seeds + 1):
        tables[f"majority@{k}"] = dict(common)
        for measure, lists in scores.items():
            pairs = zip(answers, lists, strict=True)
            tables[f"majority@{k}"][measure] = _percent([majority_at_k(row, values, k) for row, values in pairs])
        tables[f"majority@{k}"]["no_answer"] = _percent([float(all(a is None for a in row[:k])) for row in answers])


def _pass_names(k: int) -> dict[str, Callable[[Sequence[int], int], float]]:
    """Returns the aggregations of `k` attempts. pass@1[avg-of-1] is left out: it is pass@1."""
    names: dict[str, Callable[[Sequence[int], int], float]] = {f"pass@{k}": pass_at_k}
    if k > 1:
        names[f"pass@1[avg-of-{k}]"] = mean_of_first
    return names


def pass_at_k(scores: Sequence[int], k: int) -> float:
    """Probability that k random attempts contain a right one, for scores 0 and 1. For counts: best of the first k."""
    if any(score not in (0, 1) for score in scores):
        return max(scores[:k])
    wrong = len(scores) - sum(scores)
    return 1 - (math.comb(wrong, k) / math.comb(len(scores), k) if wrong >= k else 0)


def mean_of_first(scores: Sequence[int], k: int) -> float:
    """Mean of the first k attempts."""
    return sum(scores[:k]) / k


def majority_at_k(answers: Sequence[str | None], scores: Sequence[int], k: int) -> float:
    """Score of the most frequent answer among the first k attempts. Ties are averaged; no answer at all scores 0."""
    votes = Counter((a, s) for a, s in zip(answers[:k], scores[:k], strict=True) if a is not None)
    winners = [score for (_, score), count in votes.items() if count == max(votes.values())]
    return sum(winners) / len(winners) if winners else 0.0


def _instruction_tables(facts: ScorerFacts, problems: Sequence[Attempts]) -> dict[str, Table]:
    """Percentages per aggregation over prompts and over instructions; `average_score` is the mean of the others."""
    single = {name: facts.measures[name] for name in facts.measures if name != "average_score"}
    scores = {name: _scores(problems, (measure,)) for name, measure in single.items()}
    totals = {name: int(_sum(measure(rows[0]).possible[0] for rows in problems)) for name, measure in single.items()}
    tables: dict[str, Table] = {}
    for k in range(1, len(problems[0]) + 1):
        for name, aggregate in _pass_names(k).items():
            accuracies = {
                measure: _sum(aggregate(values, k) for values in lists) / max(1, totals[measure]) * 100.0
                for measure, lists in scores.items()
            }
            tables[name] = {
                "num_prompts": len(problems),
                "num_instructions": totals["instruction_strict_accuracy"],
                "average_score": _sum(accuracies.values()) / len(accuracies),
                **accuracies,
                **_common(problems),
            }
    return tables


def _common(problems: Sequence[Attempts]) -> Table:
    """Entries, mean tokens per reply, seconds from first start to last end; the last two only where rows have them."""
    common = {"num_entries": len(problems)}
    tokens = _sum(sum(row.get("num_generated_tokens", 0) for row in rows) / len(rows) for rows in problems)
    if tokens > 0:
        common["avg_tokens"] = int(tokens / len(problems))
    starts = [row["generation_start_time"] for rows in problems for row in rows if "generation_start_time" in row]
    ends = [row["generation_end_time"] for rows in problems for row in rows if "generation_end_time" in row]
    if starts and ends:
        common["gen_seconds"] = int(max(ends) - min(starts))
    return common


def _token_counts(problems: Sequence[Attempts]) -> dict[str, list[list[int]]]:
    """Thinking and answer tokens of every attempt. A reply without the split counts as answer only."""
    splits = [[_token_split(row) for row in rows] for rows in problems]
    return {
        "reasoning_tokens": [[thinking for thinking, _ in row] for row in splits],
        "answer_tokens": [[answer for _, answer in row] for row in splits],
    }


def _token_split(row: Row) -> tuple[int, int]:
    thinking, answer = row.get("num_reasoning_tokens", 0), row.get("num_answer_tokens", 0)
    if thinking == 0 and answer == 0:
        answer = row.get("num_generated_tokens", 0)
    return thinking, answer


def _statistics(lists: Sequence[Sequence[int]], k: int) -> dict[str, float]:
    """Mean of the first k attempts, and their standard deviations across runs and within a problem."""
    runs = [np.mean([scores[run] for scores in lists]) for run in range(k)]
    spread = float(np.std(runs, ddof=1))
    within = [float(np.std(scores[:k], ddof=1)) for scores in lists]
    return {
        "avg": float(np.mean([np.mean(scores[:k]) for scores in lists])),
        "std_dev_across_runs": spread,
        "avg_sample_std_dev": _sum(within) / len(within),
        "std_err_across_runs": spread / math.sqrt(k),
    }


def _percent(values: Sequence[float]) -> float:
    return 100.0 * _sum(values) / len(values)


def _sum(values: Iterable[float]) -> float:
    """Plain left-to-right sum. The built-in one compensates rounding errors from Python 3.12 on."""
    total = 0.0
    for value in values:
        total += value
    return total
