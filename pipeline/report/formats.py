"""Report rows as text: terminal table, markdown, csv, json."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence

from rich import box
from rich.markup import escape
from rich.table import Table
from trimode.pipeline.analysis.statistics import Interval, mean_interval
from trimode.pipeline.analysis.summary import JSON_FIELDS, ReportRow
from trimode.pipeline.analysis.text import MISSING, interval, number

COLUMNS = (
    "Benchmark",
    "Mode",
    "Problems",
    "Accuracy %",
    "95 % interval",
    "Tokens",
    "NFE",
    "TPF",
    "TPF, all forwards",
    "tok/s",
    "Accepted / verify",
    "Failed",
    "Unscored",
)
"""Headings of the table for people. Failed: samples without an answer. Unscored: answers that the scorer could not
judge. Both count as wrong."""


def accuracy_interval(row: ReportRow) -> str:
    """Returns the 95 % interval of the accuracy, in percent."""
    if row.accuracy_low is None or row.accuracy_high is None:
        return MISSING
    return interval(Interval(row.accuracy_low, row.accuracy_high), 1)


def problems(row: ReportRow) -> str:
    """Returns the number of problems, with the seeds if there are several, and done/total while unfinished."""
    text = f"{row.num_entries}"
    if row.seeds > 1:
        text += f" x {row.seeds}"
    if not row.finished:
        text += f" ({row.done}/{row.total if row.total is not None else '?'} done)"
    return text


def cells(row: ReportRow) -> tuple[str, ...]:
    """Returns the row as text, one entry per column of COLUMNS."""
    accuracy = number(row.accuracy, 2)
    if row.std_err is not None:
        accuracy += f" (s.e. {row.std_err:.2f})"
    return (
        row.benchmark,
        row.label,
        problems(row),
        accuracy,
        accuracy_interval(row),
        number(row.avg_tokens, 1),
        number(row.average_nfe, 1),
        number(row.tpf, 2),
        number(row.tpf_total, 2),
        number(row.tokens_per_second, 1),
        number(row.acceptance_length, 2),
        str(row.failed),
        str(row.unscored),
    )


def mean_accuracy_interval(rows: Sequence[ReportRow]) -> Interval | None:
    """Returns the 95 % interval of the mean accuracy over rows; None if one of them has none."""
    known = [
        (row.accuracy, Interval(row.accuracy_low, row.accuracy_high))
        for row in rows
        if row.accuracy is not None and row.accuracy_low is not None and row.accuracy_high is not None
    ]
    return mean_interval(*zip(*known, strict=True)) if known and len(known) == len(rows) else None


def mean_cells(rows: list[ReportRow]) -> list[tuple[str, ...]]:
    """Returns one line per mode that has every benchmark: the plain mean over benchmarks, as papers print it."""
    benchmarks = {row.benchmark for row in rows}
    lines: list[tuple[str, ...]] = []
    for label in dict.fromkeys(row.label for row in rows):
        mine = [row for row in rows if row.label == label]
        if len(benchmarks) < 2 or len(mine) != len(benchmarks) or {row.benchmark for row in mine} != benchmarks:
            continue

        def mean(name: str, digits: int, mine: list[ReportRow] = mine) -> str:
            values = [getattr(row, name) for row in mine]
            return MISSING if None in values else number(sum(values) / len(values), digits)

        lines.append(
            (
                f"mean of {len(mine)}",
                label,
                str(sum(row.num_entries for row in mine)),
                mean("accuracy", 2),
                interval(mean_accuracy_interval(mine), 1),
                mean("avg_tokens", 1),
                mean("average_nfe", 1),
                mean("tpf", 2),
                mean("tpf_total", 2),
                mean("tokens_per_second", 1),
                mean("acceptance_length", 2),
                str(sum(row.failed for row in mine)),
                str(sum(row.unscored for row in mine)),
            )
        )
    return lines


TERMINAL_COLUMNS = (
    *("Benchmark", "Mode", "N", "Acc. %", "95 %", "Tokens", "NFE", "TPF", "TPF all", "tok/s", "Accept"),
    *("Failed", "Unscored"),
)
"""Shorter headings of COLUMNS, for a terminal of 80 columns."""


def _terminal_columns(rows: Sequence[ReportRow]) -> list[int]:
    """Returns the columns that a terminal shows: failures only if there are any, TPF over all forwards never."""
    left_out = {"TPF all"}
    left_out |= set() if any(row.failed for row in rows) else {"Failed"}
    left_out |= set() if any(row.unscored for row in rows) else {"Unscored"}
    return [index for index, name in enumerate(TERMINAL_COLUMNS) if name not in left_out]


def as_table(rows: list[ReportRow]) -> Table:
    """A rich table, grouped by benchmark."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 0))
    columns = _terminal_columns(rows)
    for index in columns:
        table.add_column(TERMINAL_COLUMNS[index], justify="left" if index < 2 else "right", no_wrap=True)
    lines = [*map(cells, rows), *mean_cells(rows)]
    for index, line in enumerate(lines):
        first = index == 0 or lines[index - 1][0] != line[0]
        last = index + 1 == len(lines) or lines[index + 1][0] != line[0]
        shown = [line[column] for column in columns]
        table.add_row(escape(shown[0]) if first else "", *map(escape, shown[1:]), end_section=last)
    return table


def as_markdown(rows: list[ReportRow]) -> str:
    """A GitHub table; numbers right-aligned."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "|".join([":--"] * 2 + ["--:"] * (len(COLUMNS) - 2)) + "|"]
    lines += ["| " + " | ".join(c.replace("|", "\\|") for c in line) + " |" for line in map(cells, rows)]
    lines += ["| " + " | ".join(line) + " |" for line in mean_cells(rows)]
    return "\n".join(lines) + "\n"


def as_csv(rows: list[ReportRow]) -> str:
    """JSON_FIELDS as columns; empty where a statistic does not apply."""
    out = io.StringIO()
    writer = csv.DictWriter(out, JSON_FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(row.to_json() for row in rows)
    return out.getvalue()


def as_json(rows: list[ReportRow]) -> str:
    """A list of objects with JSON_FIELDS."""
    return json.dumps([row.to_json() for row in rows], indent=2, allow_nan=False) + "\n"
