"""What the page shows per run: a name, a colour slot, its report rows and its ledger lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trimode.pipeline.analysis.published import Quoted, checkpoint_size, quoted
from trimode.pipeline.analysis.run_names import run_names
from trimode.pipeline.analysis.runs import Run
from trimode.pipeline.analysis.statistics import Interval, mean_interval
from trimode.pipeline.analysis.summary import ReportRow
from trimode.pipeline.run_folder.nfe import NfeRecord

_SLOTS = {"ar": 0, "dlm": 1, "linear_spec": 2, "linear_spec+lora": 3, "auto": 4, "auto+lora": 5}
_FIRST_SPARE = 4
"""From here on a slot goes to whoever needs one, if its own is taken."""
NUM_SLOTS = 8
"""Number of colours in the style sheet."""


@dataclass(frozen=True, slots=True)
class Mean:
    """A value, or the plain mean of several, with its 95 % interval."""

    value: float
    interval: Interval | None
    """None where no interval is known, e.g. of the TPF of a single problem."""

    @property
    def errors(self) -> list[list[float]]:
        """Distances down and up to the bounds, as matplotlib's error bars take them."""
        low, high = self.interval or (self.value, self.value)
        return [[max(self.value - low, 0.0)], [max(high - self.value, 0.0)]]


MAX_NAME = 30
"""Characters of a run's name in a figure. Of a longer one the middle is left out, so that the plot keeps its room."""


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
    """Published results of the same checkpoint in the same mode; None if there are none."""

    @property
    def short_name(self) -> str:
        """The name where a figure has little room for it: of a long one the beginning and the end."""
        half = MAX_NAME // 2
        return self.name if len(self.name) <= MAX_NAME else f"{self.name[:half]}…{self.name[-half:]}"

    @property
    def records(self) -> list[NfeRecord]:
        """Ledger lines of the samples that got an answer."""
        return [r for task in self.run.tasks.values() for r in task.records.values() if r.error is None]

    def mean(self, measure: str, benchmarks: Sequence[str]) -> Mean | None:
        """Mean of `accuracy`, `tpf` or `tokens_per_second` over `benchmarks`; None if one of them lacks it."""
        points = [self.point(measure, name) for name in benchmarks]
        known = [point for point in points if point is not None]
        if not known or len(known) < len(points):
            return None
        values = [point.value for point in known]
        intervals = [point.interval for point in known if point.interval is not None]
        complete = len(intervals) == len(values)
        return Mean(sum(values) / len(values), mean_interval(values, intervals) if complete else None)

    def point(self, measure: str, benchmark: str) -> Mean | None:
        """One measure of one benchmark with its 95 % interval; None if the benchmark lacks it."""
        row = self.rows.get(benchmark)
        value = None if row is None else getattr(row, measure)
        if row is None or value is None:
            return None
        bounds = {"tpf": row.tpf_interval, "tokens_per_second": row.speed_interval}.get(measure)
        if measure == "accuracy" and row.accuracy_low is not None and row.accuracy_high is not None:
            bounds = Interval(row.accuracy_low, row.accuracy_high)
        return Mean(value, bounds)


def make_series(runs: Sequence[Run], rows: Sequence[ReportRow]) -> list[Series]:
    """Returns one entry per run that has rows, in order. Runs of the same mode get different colours."""
    used: set[int] = set()
    found: list[Series] = []
    runs = [run for run in runs if any(row.run_path == run.path for row in rows)]
    for name, run in zip(run_names(runs), runs, strict=True):
        mine = {row.benchmark: row for row in rows if row.run_path == run.path}
        slot = _SLOTS[f"{run.mode.value}+lora" if run.lora else run.mode.value]
        if slot in used:
            slot = next((s for s in range(_FIRST_SPARE, NUM_SLOTS) if s not in used), slot)
        used.add(slot)
        size = checkpoint_size(model_path(run))
        found.append(Series(name, slot, run, mine, None if size is None else quoted(size, run.label)))
    return found


def model_path(run: Run) -> str:
    """Returns the recorded checkpoint folder or hub id; empty if there is none."""
    return run.jobs[0].model.path if run.jobs else ""


def benchmarks_of(series: Sequence[Series]) -> list[str]:
    """Returns every benchmark that any run has rows for, sorted."""
    return sorted({name for s in series for name in s.rows})


def shared_benchmarks(series: Sequence[Series]) -> list[str]:
    """Returns the benchmarks that every run has rows for. Means over others would not be comparable."""
    return [name for name in benchmarks_of(series) if all(name in s.rows for s in series)]
