"""`python -m trimode.pipeline.report DIR`: the figures of every run at or below DIR, and report.html.

Knows no model and no cluster; it reads what jobs have left, finished or not. Figures go to stdout, remarks to stderr.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from trimode.pipeline.comparable import differences
from trimode.pipeline.html_report.page import FILE_NAME, write_page
from trimode.pipeline.report_formats import as_csv, as_json, as_markdown, as_table
from trimode.pipeline.results import Run, read_sweep
from trimode.pipeline.summary import ReportRow, disagreement, summarize_runs
from trimode.workers.protocol import ConfigError

PIPED_WIDTH = 160
"""Columns of the table when stdout is a file or a pipe."""


def remarks(runs: list[Run], rows: list[ReportRow]) -> list[str]:
    """What a reader of the table must know: unfinished parts, several runs in one cell, what is not comparable."""
    lines: list[str] = []
    by_cell: dict[tuple[str, str], list[ReportRow]] = {}
    for row in rows:
        by_cell.setdefault((row.label, row.benchmark), []).append(row)
        if not row.finished:
            lines.append(f"{row.label} {row.benchmark}: {row.done}/{row.total or '?'} answers scored so far")
    for (label, benchmark), several in by_cell.items():
        if len(several) > 1:
            places = ", ".join(str(row.run_path) for row in several)
            lines.append(
                f"{label} {benchmark}: {len(several)} runs below this folder, in the order of the rows: {places}"
            )
    for run in runs:
        for name, task in run.tasks.items():
            lines += [f"{run.path}: {name}: {line}" for line in disagreement(task)]
    return lines + differences(runs)


def print_rows(rows: list[ReportRow], style: str) -> None:
    """Writes the rows to stdout in the given format."""
    if style == "table":
        console = Console()
        if not console.is_terminal:
            console.width = PIPED_WIDTH
        console.print(as_table(rows))
        return
    sys.stdout.write({"markdown": as_markdown, "csv": as_csv, "json": as_json}[style](rows))


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit status: 0, or 2 when DIR holds no run."""
    parser = argparse.ArgumentParser(prog="python -m trimode.pipeline.report", description=__doc__.split("\n")[0])
    parser.add_argument(
        "folder", metavar="DIR", type=Path, help="any folder at or above run folders; searched recursively"
    )
    parser.add_argument(
        "--format", choices=("table", "markdown", "csv", "json"), default="table", help="default: table"
    )
    parser.add_argument(
        "--html", metavar="FILE", type=Path, help=f"where the page goes (default: DIR/{FILE_NAME} with the table)"
    )
    parser.add_argument("--no-html", action="store_true", help="no page")
    options = parser.parse_args(argv)
    try:
        runs, notes = read_sweep(options.folder)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    page = page_target(options)
    rows = summarize_runs(runs, intervals=page is not None)
    notes += remarks(runs, rows)
    print_rows(rows, options.format)
    for line in notes:
        print(f"note: {line}", file=sys.stderr)
    if page is not None:
        try:
            write_page(page, options.folder.resolve().name, runs, rows, notes)
        except OSError as error:
            print(f"error: the report cannot be written: {error}; name another place with --html", file=sys.stderr)
            return 1
        print(f"report: {page}", file=sys.stdout if options.format == "table" else sys.stderr)
    return 0


def page_target(options: argparse.Namespace) -> Path | None:
    """Where report.html goes: the place named, DIR beside a table, nowhere for the other formats."""
    if options.html is not None:
        return Path(options.html)
    return Path(options.folder) / FILE_NAME if options.format == "table" and not options.no_html else None


if __name__ == "__main__":
    sys.exit(main())
