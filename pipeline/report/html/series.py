"""What the page draws per run: a name, a colour slot, its rows of figures and its ledgers.

Knows no HTML and no drawing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from trimode.pipeline.analysis.comparable import run_names
from trimode.pipeline.analysis.published import Quoted, checkpoint_size, quoted
from trimode.pipeline.analysis.runs import Run
from trimode.pipeline.analysis.summary import ReportRow
from trimode.pipeline.run_folder.nfe import NfeRecord

_SLOTS = {"ar": 0, "dlm": 1, "linear_spec": 2, "linear_spec+lora": 3}
NUM_SLOTS = 8
"""Colours the style sheet holds."""


@dataclass(frozen=True, slots=True)
class Mean:
    """Plain mean over benchmarks with the interval that follows from theirs."""

    value: float
    half_width: float


@dataclass(frozen=True, slots=True)
class Series:
    """One run as the page shows it."""

    name: str
    slot: int
    """Colour and marker, 0 to NUM_SLOTS - 1."""
    run: Run
    rows: dict[str, ReportRow]
    """By benchmark."""
    quoted: Quoted | None
    """Published figures of the same checkpoint in the same mode."""

    @property
    def records(self) -> list[NfeRecord]:
        """Ledgers of the answers that came."""
        return [r for task in self.run.tasks.values() for r in task.records.values() if r.error is None]

    def mean(self, figure: str, benchmarks: Sequence[str]) -> Mean | None:
        """Mean of `accuracy`, `tpf` or `tokens_per_second` over `benchmarks`; None when one of them is missing."""
        points = [self.point(figure, name) for name in benchmarks]
        known = [point for point in points if point is not None]
        if not known or len(known) < len(points):
            return None
        half = math.sqrt(sum(point.half_width**2 for point in known)) / len(known)
        return Mean(sum(point.value for point in known) / len(known), half)

    def point(self, figure: str, benchmark: str) -> Mean | None:
        """One figure of one benchmark with half the width of its 95 % interval."""
        row = self.rows.get(benchmark)
        value = None if row is None else getattr(row, figure)
        if row is None or value is None:
            return None
        bounds = {"tpf": row.tpf_interval, "tokens_per_second": row.speed_interval}.get(figure)
        if figure == "accuracy" and row.accuracy_low is not None and row.accuracy_high is not None:
            return Mean(value, (row.accuracy_high - row.accuracy_low) / 2)
        return Mean(value, 0.0 if bounds is None else (bounds.high - bounds.low) / 2)


def make_series(runs: Sequence[Run], rows: Sequence[ReportRow]) -> list[Series]:
    """One entry per run that has rows, in order; runs of the same mode get colours of their own."""
    used: set[int] = set()
    found: list[Series] = []
    for name, run in zip(run_names(runs), runs, strict=True):
        mine = {row.benchmark: row for row in rows if row.run_path == run.path}
        if not mine:
            continue
        slot = _SLOTS[run.label]
        if slot in used:
            slot = next((s for s in range(len(_SLOTS), NUM_SLOTS) if s not in used), slot)
        used.add(slot)
        size = checkpoint_size(model_path(run))
        found.append(Series(name, slot, run, mine, None if size is None else quoted(size, run.label)))
    return found


def model_path(run: Run) -> str:
    """Checkpoint folder or hub id as recorded; empty when nothing recorded it."""
    for job in run.jobs:
        path = (job.get("model") or {}).get("path")
        if path:
            return str(path)
    return ""


def benchmarks_of(series: Sequence[Series]) -> list[str]:
    """Every benchmark any run has rows for, sorted."""
    return sorted({name for s in series for name in s.rows})


def shared_benchmarks(series: Sequence[Series]) -> list[str]:
    """Benchmarks that every run has rows for; means over others would not be comparable."""
    return [name for name in benchmarks_of(series) if all(name in s.rows for s in series)]
