"""What the page's cards and tables show, as plain values: templates in tables.html turn them into markup."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trimode.core.protocol import Mode
from trimode.pipeline.analysis.comparable import facts
from trimode.pipeline.analysis.pairing import Pairing, pair, pool
from trimode.pipeline.analysis.text import MISSING, interval
from trimode.pipeline.report.formats import COLUMNS, cells
from trimode.pipeline.report.html.series import Mean, Series, benchmarks_of, model_path, shared_benchmarks


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What one run reached: means over the shared benchmarks, and its paired difference to ar."""

    series: Series
    accuracy: Mean | None
    """Percent; None, like the other two, when the runs share no benchmark or a value is missing."""
    tpf: Mean | None
    speed: Mean | None
    """Tokens per second of one request stream."""
    against_ar: Pairing | None
    """This run minus ar, all shared problems pooled; None for ar itself and without common problems."""
    remark: str
    """Sentence that stands in for the comparison; empty when there is nothing to say."""

    @property
    def flips(self) -> str:
        """How many answers only this run, and only ar, got right."""
        if self.against_ar is None or not self.against_ar.flips:
            return "no flips"
        won = sum(flip.winner == "a" for flip in self.against_ar.flips)
        return f"{won} won and {len(self.against_ar.flips) - won} lost"

    @property
    def failures(self) -> str:
        """How many samples have no answer on this side, on ar's and on both; empty if there is none."""
        p = self.against_ar
        if p is None:
            return ""
        counts = ((p.failed_a, "here"), (p.failed_b, "in ar"), (p.failed_both, "in both (left out)"))
        found = [f"{count} {where}" for count, where in counts if count]
        return "no answer: " + ", ".join(found) if found else ""

    @property
    def same_text(self) -> float | None:
        """Percent of answers with the same text as ar; None where the mode does not promise ar's text."""
        promises = self.series.run.mode in (Mode.linear_spec, Mode.auto)
        if self.against_ar is None or not promises or not self.against_ar.num_answers:
            return None
        return 100 * self.against_ar.num_identical / self.against_ar.num_answers


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One cell of the table of all numbers."""

    text: str
    notes: tuple[str, ...]
    """Small print below the text: intervals and published numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NumbersRow:
    """One run on one benchmark in the table of all numbers."""

    series: Series
    benchmark: str
    cells: tuple[Cell, ...]
    """One per column after benchmark and mode."""


def make_cards(series: Sequence[Series]) -> list[Card]:
    """One card per run, in order. The first ar run is what the others are compared with."""
    shared = shared_benchmarks(series)
    reference = next((s for s in series if s.run.mode is Mode.ar), None)
    return [_card(s, shared, reference) for s in series]


def _card(s: Series, shared: Sequence[str], reference: Series | None) -> Card:
    against_ar, remark = None, ""
    if s is reference:
        if len(shared) > 1:
            remark = f"Means over {len(shared)} benchmarks. The other modes are compared with this one."
    elif reference is not None:
        against_ar = _against(s, reference)
        remark = "" if against_ar is not None else "No problem in common with ar."
    return Card(
        series=s,
        accuracy=s.mean("accuracy", shared),
        tpf=s.mean("tpf", shared),
        speed=s.mean("tokens_per_second", shared),
        against_ar=against_ar,
        remark=remark,
    )


def _against(s: Series, reference: Series) -> Pairing | None:
    """The run minus the reference over all benchmarks that both hold; None when they share no problem."""
    pairings = [
        found
        for name, task in s.run.tasks.items()
        if name in reference.run.tasks and (found := pair(task, reference.run.tasks[name])) is not None
    ]
    return pool(pairings) if pairings else None


def numbers_rows(series: Sequence[Series]) -> list[list[NumbersRow]]:
    """Every number of every run, one list per benchmark; the texts are those of the markdown table."""
    return [[_numbers_row(s, name) for s in series if name in s.rows] for name in benchmarks_of(series)]


def _numbers_row(s: Series, benchmark: str) -> NumbersRow:
    row = s.rows[benchmark]
    notes: dict[str, list[str]] = {name: [] for name in COLUMNS}
    for column, bounds, digits in (("TPF", row.tpf_interval, 2), ("tok/s", row.speed_interval, 1)):
        if bounds is not None:
            notes[column].append(interval(bounds, digits))
    if s.quoted is not None and benchmark in s.quoted.tpf:
        notes["TPF"].append(f"quoted {s.quoted.tpf[benchmark]:.2f}")
    named = dict(zip(COLUMNS, cells(row), strict=True))
    found = [Cell(text=text, notes=tuple(notes[name])) for name, text in named.items()]
    return NumbersRow(series=s, benchmark=benchmark, cells=tuple(found[2:]))


def settings_rows(series: Sequence[Series]) -> list[tuple[str, list[str]]]:
    """(name, one value per run) of what each run was made with, from its manifest."""
    generic = [
        {name.replace(f" of {s.run.label}", ""): value for name, value in dict(facts(s.run)).items()} for s in series
    ]
    names = list(dict.fromkeys(name for found in generic for name in found))
    rows = [("folder", [str(s.run.path) for s in series]), ("model", [model_path(s.run) for s in series])]
    rows.append(("state", [s.run.state for s in series]))
    return rows + [(name, [found.get(name, MISSING) for found in generic]) for name in names]
