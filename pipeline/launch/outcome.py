"""What became of a job that has ended, from its markers and logs; and the table of a sweep that has ended.

Knows no executor.
"""

from __future__ import annotations

from pathlib import Path

from trimode.pipeline.run_folder.paths import RunPaths
from trimode.pipeline.spec import JobSpec

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
