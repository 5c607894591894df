"""Report rows as text: terminal table, markdown, csv, json."""

from __future__ import annotations

import csv
import io
import json

from rich import box
from rich.markup import escape
from rich.table import Table
from trimode.pipeline.analysis.statistics import Interval
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
)
"""Headings of the table for people."""


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
        accuracy += f" ± {row.std_err:.2f}"
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
    )


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
                "",
                mean("avg_tokens", 1),
                mean("average_nfe", 1),
                mean("tpf", 2),
                mean("tpf_total", 2),
                mean("tokens_per_second", 1),
                mean("acceptance_length", 2),
            )
        )
    return lines


TERMINAL_COLUMNS = ("Benchmark", "Mode", "N", "Acc. %", "95 %", "Tokens", "NFE", "TPF", "tok/s", "Accept")
"""Shorter headings, for a terminal of 80 columns. The TPF over all forwards is in the other formats only."""

_LEFT_OUT = COLUMNS.index("TPF, all forwards")


def as_table(rows: list[ReportRow]) -> Table:
    """A rich table, grouped by benchmark."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 0))
    for index, heading in enumerate(TERMINAL_COLUMNS):
        table.add_column(heading, justify="left" if index < 2 else "right", no_wrap=True)
    lines = [*map(cells, rows), *mean_cells(rows)]
    for index, line in enumerate(lines):
        first = index == 0 or lines[index - 1][0] != line[0]
        last = index + 1 == len(lines) or lines[index + 1][0] != line[0]
        shown = [cell for column, cell in enumerate(line) if column != _LEFT_OUT]
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
