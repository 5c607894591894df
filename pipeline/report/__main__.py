"""`python -m trimode.pipeline.report DIR`: a table of every run at or below DIR, and report.html.

Reads what jobs have left, finished or not. The table goes to stdout, remarks go to stderr.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from trimode.core.command import run_command
from trimode.core.errors import USER_ERROR, ConfigError, guarded
from trimode.core.files import write_text_atomic
from trimode.pipeline.analysis.comparable import differences, mixed_code
from trimode.pipeline.analysis.loads import LoadSweep, read_loads
from trimode.pipeline.analysis.run_names import run_names
from trimode.pipeline.analysis.runs import Run, find_run_folders, read_sweep
from trimode.pipeline.analysis.summary import ReportRow, disagreement, summarize_runs
from trimode.pipeline.report.formats import as_csv, as_json, as_markdown, as_table
from trimode.pipeline.report.html.page import FILE_NAME, write_page

FORMATS = ("table", "markdown", "csv", "json")

PIPED_WIDTH = 160
"""Columns of the table when stdout is a file or a pipe."""


def remarks(runs: list[Run], rows: list[ReportRow]) -> list[str]:
    """Returns what a reader of the table must know: unfinished parts, where runs of one mode lie, what differs.

    Runs without any answer are not in the table and differ from nothing.
    """
    lines = [
        f"{row.label} {row.benchmark}: {row.done}/{row.total or '?'} answers scored so far"
        for row in rows
        if not row.finished
    ]
    runs = [run for run in runs if any(task.rows for task in run.tasks.values())]
    lines += [f"{name} is {run.path}" for name, run in zip(run_names(runs), runs, strict=True) if name != run.label]
    for run in runs:
        for name, task in run.tasks.items():
            lines += [f"{run.path}: {name}: {line}" for line in disagreement(task)]
    return lines + [line for run in runs for line in mixed_code(run)] + differences(runs)


def left_out(runs: list[Run], page: Path | None) -> list[str]:
    """Returns a line if more runs lie below the folder of report.html than it shows, as after two sweeps into one."""
    if page is None or page.name != FILE_NAME:
        return []
    shown = {run.path.resolve() for run in runs}
    try:
        others = [folder for folder in find_run_folders(page.parent) if folder.resolve() not in shown]
    except ConfigError:
        return []
    command = shlex.join(["python", "-m", "trimode.pipeline.report", str(page.parent)])
    more = "1 more run" if len(others) == 1 else f"{len(others)} more runs"
    verb = "is" if len(others) == 1 else "are"
    return [f"{more} below {page.parent} {verb} left out; `{command}` shows all"] if others else []


class _Screen(Console):
    def on_broken_pipe(self) -> None:
        """Leaves the closed pipe, which rich would end the process for, to the boundary of all commands."""
        raise


def print_rows(rows: list[ReportRow], style: str) -> None:
    """Writes the rows to stdout in the given format; a table without rows becomes a sentence."""
    if style != "table":
        sys.stdout.write({"markdown": as_markdown, "csv": as_csv, "json": as_json}[style](rows))
        return
    console = _Screen()
    if not console.is_terminal:
        console.width = PIPED_WIDTH
    console.print(as_table(rows) if rows else "No scored answers yet.")


def publish(runs: list[Run], notes: list[str], style: str, page: Path | None, loads: Sequence[LoadSweep] = ()) -> None:
    """Prints rows to stdout and remarks to stderr; writes the page, and the table in markdown beside it.

    No files are written if `page` is None. Raises OSError if they cannot be written.
    """
    rows = summarize_runs(runs)
    notes = notes + remarks(runs, rows) + left_out(runs, page)
    if rows or not loads:
        print_rows(rows, style)
    for sweep in loads:
        print(sweep.advice, file=sys.stdout if style == "table" else sys.stderr)
    for line in notes:
        print(f"note: {line}", file=sys.stderr)
    if page is not None and (rows or loads):
        write_page(page, runs, rows, notes, loads)
        write_text_atomic(page.with_suffix(".md"), as_markdown(rows))
        print(f"report: {page}", file=sys.stdout if style == "table" else sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m trimode.pipeline.report", description="The results of a sweep: a table, and report.html."
    )
    parser.add_argument("folders", metavar="DIR", type=Path, nargs="+", help="any folder at or above run folders")
    parser.add_argument("--format", choices=FORMATS, default="table", help="default: table")
    parser.add_argument(
        "--html", metavar="FILE", type=Path, help=f"where the page goes (default: DIR/{FILE_NAME}, with the table only)"
    )
    parser.add_argument("--no-html", action="store_true", help="write no page")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns the exit status: 0, or 2 if DIR holds no run or the page named cannot be written."""
    options = _parser().parse_args(argv)
    by_default = options.format == "table" and not options.no_html
    page = options.html or (options.folders[0] / FILE_NAME if by_default else None)
    return guarded(lambda: run_report(options, page))


def _has_runs(folder: Path) -> bool:
    try:
        return bool(find_run_folders(folder))
    except ConfigError:
        return False


def run_report(options: argparse.Namespace, page: Path | None) -> int:
    """Everything after parsing. Returns the exit status. ConfigError if there is neither a run nor a sweep of loads."""
    try:
        loads, doubts = read_loads(*options.folders)
        runs, notes = ([], []) if loads and not any(map(_has_runs, options.folders)) else read_sweep(*options.folders)
        publish(runs, notes + doubts, options.format, page, loads)
    except BrokenPipeError:  # nobody reads the table any more
        raise
    except OSError as error:
        again = f"python -m trimode.pipeline.report {shlex.join(map(str, options.folders))} --html FILE"
        print(f"error: the page cannot be written ({error}); name another place: {again}", file=sys.stderr)
        return USER_ERROR if options.html else 0
    return 0


if __name__ == "__main__":
    run_command(main)
