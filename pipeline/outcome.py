"""What became of a job that has ended, from its markers and logs; and the table of a sweep that has ended.

Knows no executor.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from trimode.pipeline.paths import RunPaths, write_text_atomic
from trimode.pipeline.report import print_rows, remarks
from trimode.pipeline.report_formats import as_markdown
from trimode.pipeline.results import read_run
from trimode.pipeline.spec import JobSpec
from trimode.pipeline.summary import summarize_runs

TAIL_LINES = 30


def is_completed(spec: JobSpec) -> bool:
    """Whether the job's marker says so. A job takes old markers away when it starts."""
    return RunPaths(Path(spec.run_dir)).completed(spec.index).exists()


def failure_words(spec: JobSpec, executor_log: Path) -> str:
    """Why a job failed: the cause in its record, else the end of what the executor wrote for it."""
    record = RunPaths(Path(spec.run_dir)).failed(spec.index)
    if record.exists():
        causes = [line for line in record.read_text(encoding="utf-8").splitlines() if line.startswith("Cause: ")]
        return f"{causes[0] if causes else 'no cause written'}\n  record: {record}"
    if executor_log.exists():
        lines = executor_log.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL_LINES:]
        return "\n".join([f"it left no record; {executor_log} ends with:", *("  " + line for line in lines)])
    return f"it left no record and no output ({executor_log})"


def print_report(jobs: Sequence[JobSpec], out_dir: Path) -> None:
    """The sweep's table on stdout, remarks on stderr, and the same table as a file in `out_dir`."""
    folders = dict.fromkeys(Path(job.run_dir) for job in jobs)
    runs = [read_run(folder) for folder in folders if folder.is_dir()]
    rows = summarize_runs(runs)
    print_rows(rows, "table")
    for line in [note for run in runs for note in run.notes] + remarks(runs, rows):
        print(f"note: {line}", file=sys.stderr)
    report = out_dir / "report.md"
    write_text_atomic(report, as_markdown(rows))
    print(f"Report: {report}")
