"""Evaluates one mode on some tasks in this process: no server, no Slurm; the configs, plan, scoring and files of a job.

The worker class is passed in, so tests can replace it.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
# This file's folder holds `kernels` and others, names of packages that transformers imports: it must not be searched.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]
try:
    import trimode  # noqa: F401 - is it installed?
except ImportError:
    sys.path.append(str(ROOT / ".types"))

from trimode.core.command import UNREAD, run_command
from trimode.core.protocol import WorkerSettings
from trimode.core.worker import Worker
from trimode.pipeline.in_process.evaluate import main


def load_worker(settings: WorkerSettings) -> Worker:
    """Loads the real worker. Imports torch only now: help, mistakes and scoring processes do without it."""
    from trimode.workers import worker

    return worker.Worker(settings)


if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:], load_worker), unfinished=UNREAD)
