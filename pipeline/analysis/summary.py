"""One row of statistics per run and benchmark: accuracy with its interval, tokens, forwards, speed, acceptance."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from trimode.core.protocol import Row
from trimode.pipeline.analysis.run_names import run_names
from trimode.pipeline.analysis.runs import Run, TaskResult
from trimode.pipeline.analysis.statistics import Floats, Interval, ratio, ratio_interval, score_interval, standard_error
from trimode.pipeline.run_folder.nfe import NfeRecord, is_count, summarize
from trimode.pipeline.scoring.verdicts import row_points

JSON_FIELDS = (
    "mode",
    "lora",
    "benchmark",
    "num_entries",
    "accuracy",
    "accuracy_low",
    "accuracy_high",
    "avg_tokens",
    "average_nfe",
    "tpf",
    "tpf_total",
    "tokens_per_second",
    "acceptance_length",
    "failed",
    "unscored",
    "label",
)
"""Fields of the machine-readable row, in this order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportRow:
    """Statistics of one benchmark in one run. Accuracies are in percent; None where a statistic does not apply."""

    mode: str
    lora: bool
    benchmark: str
    num_entries: int
    """Problems with at least one scored answer."""
    accuracy: float | None
    """The benchmark's metric: pass@1, or pass@1 averaged over the seeds."""
    accuracy_low: float | None
    accuracy_high: float | None
    avg_tokens: float | None
    """Generated tokens per answer."""
    average_nfe: float | None
    tpf: float | None
    """Sum of tokens / sum of nfe."""
    tpf_total: float | None
    """Sum of tokens / sum of forwards of every kind."""
    tokens_per_second: float | None
    """Of one request stream, without its time in the queue."""
    acceptance_length: float | None
    """Mean tokens emitted per verify; linear_spec and auto only."""
    label: str
    """Mode with `+lora` where it applies; where several runs have it, with what tells this one apart."""
    run_path: Path
    seeds: int
    std_err: float | None
    """Standard error of the accuracy over seeds, in points; None with one seed."""
    tpf_interval: Interval | None = None
    speed_interval: Interval | None = None
    done: int = 0
    """Scored answers so far."""
    total: int | None = None
    """Number of scored answers when finished; None if no job spec says it."""
    finished: bool = True
    failed: int = 0
    """Samples without an answer. They count as wrong."""
    unscored: int = 0
    """Answers that the scorer could not judge. They count as wrong."""

    def to_json(self) -> dict[str, object]:
        """The fields named in JSON_FIELDS."""
        return {name: getattr(self, name) for name in JSON_FIELDS}


def problem_points(task: TaskResult) -> tuple[list[int], Floats, Floats]:
    """Returns sample ids, scored and possible points, summed over seeds; both [problems, columns of the metric]."""
    scored: dict[int, Floats] = {}
    possible: dict[int, Floats] = {}
    for (sample_id, _), row in task.rows.items():
        points = row_points(task.benchmark, row)
        scored[sample_id] = scored.get(sample_id, 0.0) + np.array(points.scored)
        possible[sample_id] = possible.get(sample_id, 0.0) + np.array(points.possible)
    ids = sorted(scored)
    return ids, np.array([scored[i] for i in ids]), np.array([possible[i] for i in ids])


def seed_accuracies(task: TaskResult) -> list[float]:
    """Returns the accuracy of each seed, in percent."""
    by_seed: dict[int, list[tuple[Floats, Floats]]] = defaultdict(list)
    for (_, seed), row in task.rows.items():
        points = row_points(task.benchmark, row)
        by_seed[seed].append((np.array(points.scored), np.array(points.possible)))
    return [
        100 * ratio(np.array([s for s, _ in rows]), np.array([p for _, p in rows]))
        for _, rows in sorted(by_seed.items())
    ]


def stated_accuracy(task: TaskResult) -> float | None:
    """Returns the metric as metrics.json states it, in percent; None if it is not there."""
    if task.metrics is None:
        return None
    k = len(task.seeds)
    aggregate = task.metrics.get("pass@1" if k <= 1 else f"pass@1[avg-of-{k}]") or {}
    value = aggregate.get(task.benchmark.metric)
    return float(value) if is_count(value) else None


def num_tokens(row: Row) -> float:
    """Returns the generated tokens of a row; 0 if the row does not say, or says no count."""
    value = row.get("num_generated_tokens")
    return float(value) if is_count(value) else 0.0


def disagreement(task: TaskResult) -> list[str]:
    """Returns a remark if metrics.json of a finished benchmark lacks its metric or differs from what its rows say."""
    if not task.finished:
        return []
    stated = stated_accuracy(task)
    if stated is None:
        return [f"metrics.json has no {task.benchmark.metric} for {len(task.seeds)} seeds; computed from the rows"]
    _, scored, possible = problem_points(task)
    counted = 100 * ratio(scored, possible)
    return [f"metrics.json says {stated:.2f} %, its rows {counted:.2f} %"] if abs(stated - counted) > 0.01 else []


def summarize_task(run: Run, task: TaskResult) -> ReportRow:
    """Returns the row of one benchmark of one run."""
    ids, scored, possible = problem_points(task)
    accuracy, bounds = None, None
    if ids:
        stated = stated_accuracy(task) if task.finished else None
        accuracy = 100 * ratio(scored, possible) if stated is None else stated
        bounds = score_interval(scored, possible)
    records = list(task.records.values())
    totals = summarize(records)
    tokens = [num_tokens(row) for row in task.rows.values()]
    accepted = [length for record in records for length in record.cost.acceptance_lengths]
    per_seed = seed_accuracies(task)
    return ReportRow(
        mode=run.mode.value,
        lora=run.lora,
        benchmark=task.benchmark.name,
        num_entries=len(ids),
        accuracy=_rounded(accuracy),
        accuracy_low=_rounded(None if bounds is None else 100 * bounds.low),
        accuracy_high=_rounded(None if bounds is None else 100 * bounds.high),
        avg_tokens=_rounded(float(np.mean(tokens)) if tokens else None),
        average_nfe=totals["average_nfe"],
        tpf=totals["tpf"],
        tpf_total=totals["tpf_total"],
        tokens_per_second=totals["tokens_per_second"],
        acceptance_length=_rounded(float(np.mean(accepted)) if accepted else None),
        label=run.label,
        run_path=run.path,
        seeds=len(task.seeds),
        std_err=standard_error(per_seed),
        tpf_interval=tpf_interval(records),
        speed_interval=speed_interval(records),
        done=len(task.rows),
        total=task.num_expected,
        finished=task.finished,
        failed=len(task.failed_keys),
        unscored=len(task.unscored_keys),
    )


def summarize_runs(runs: list[Run]) -> list[ReportRow]:
    """Returns all rows of a sweep, sorted by benchmark, then in the order of `runs`. No two runs share a label."""
    runs = [run for run in runs if any(task.rows for task in run.tasks.values())]
    rows = [
        replace(summarize_task(run, task), label=name)
        for name, run in zip(run_names(runs), runs, strict=True)
        for task in run.tasks.values()
        if task.rows
    ]
    return sorted(rows, key=lambda row: row.benchmark)


def tpf_interval(records: list[NfeRecord]) -> Interval | None:
    """Interval of TPF over problems."""
    answered = [r for r in records if r.error is None]
    if any(r.cost.nfe is None for r in answered):
        return None
    return _record_interval([(r.sample_id, float(r.cost.completion_tokens), float(r.cost.nfe or 0)) for r in answered])


def speed_interval(records: list[NfeRecord]) -> Interval | None:
    """Interval of tokens per second over problems."""
    return _record_interval(
        [
            (r.sample_id, float(r.cost.completion_tokens), r.cost.total_s - r.cost.queue_s)
            for r in records
            if r.error is None
        ]
    )


def _record_interval(triples: list[tuple[int, float, float]]) -> Interval | None:
    """Interval of sum(second) / sum(third), clustered by the first entry, the sample id."""
    sums: dict[int, tuple[float, float]] = {}
    for sample_id, numerator, denominator in triples:
        earlier = sums.get(sample_id, (0.0, 0.0))
        sums[sample_id] = (earlier[0] + numerator, earlier[1] + denominator)
    pairs = np.array(list(sums.values()), dtype=np.float64).reshape(-1, 2)
    return ratio_interval(pairs[:, 0], pairs[:, 1]) if pairs[:, 1].sum() > 0 else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
