"""What became of a job that has ended, from its markers and logs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from trimode.core.files import has_space, tail
from trimode.pipeline.run_folder.paths import RunPaths
from trimode.pipeline.spec import JobSpec

TAIL_LINES = 30
"""Lines of the executor's log that stand for a failure record that is missing."""


def is_completed(spec: JobSpec) -> bool:
    """True if the job has left its COMPLETED marker. A job removes old markers when it starts."""
    return RunPaths(Path(spec.run_dir)).completed(spec.index).exists()


def over_since(spec: JobSpec, moment: float) -> str | None:
    """Returns `completed` or `failed` if the job has left such a marker after a Unix time; else None."""
    paths = RunPaths(Path(spec.run_dir))
    for name, marker in (("completed", paths.completed(spec.index)), ("failed", paths.failed(spec.index))):
        with suppress(FileNotFoundError):
            if marker.stat().st_mtime >= moment:
                return name
    return None


def forget(specs: Sequence[JobSpec], before: float = math.inf) -> None:
    """Removes the markers that earlier runs of jobs have left, as they are to run again.

    `before`: a Unix time; later markers are of the new runs.
    """
    for spec in specs:
        paths = RunPaths(Path(spec.run_dir))
        for marker in (paths.completed(spec.index), paths.failed(spec.index)):
            with suppress(OSError):
                if marker.stat().st_mtime < before:
                    marker.unlink()


def cause(record: Path) -> str:
    """Returns the whole cause in a failure record: all lines up to the first end of a log."""
    text = record.read_text(encoding="utf-8", errors="replace").partition("\n--- end of ")[0]
    return text.partition("Cause: ")[2].strip() or "no cause written"


def failure_message(spec: JobSpec, executor_log: Path) -> str:
    """Returns why a job failed: the cause in its record, or else the end of the executor's log."""
    record = RunPaths(Path(spec.run_dir)).failed(spec.index)
    if record.exists():
        return f"Cause: {cause(record)}\n  record: {record}"
    if not has_space(Path(spec.run_dir)):
        return f"no space left for {spec.run_dir}; what was stored before stays, and the same command goes on"
    if executor_log.exists():
        lines = tail(executor_log, TAIL_LINES).splitlines()
        return "\n".join([f"it left no record; {executor_log} ends with:", *("  " + line for line in lines)])
    return f"it left no record and no output ({executor_log})"
