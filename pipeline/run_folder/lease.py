"""Which run of a job may write: the one that started last. An earlier one that still lives stops when it notices.

Slurm starts a job again when its node does not answer. If the node was only cut off, both runs live at the same time.
"""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from collections.abc import Mapping

from trimode.core.errors import TrimodeError
from trimode.core.files import write_json_atomic
from trimode.core.processes import process_id
from trimode.pipeline.run_folder.earlier_runs import restart_count
from trimode.pipeline.run_folder.paths import RunPaths
from trimode.pipeline.run_folder.provenance import now

CHECK_EVERY_S = 1.0
"""Seconds between two looks at the file while rows are written. Before a merge it is looked at in any case."""


class LeaseLost(TrimodeError):  # noqa: N818 - an event, not a mistake of somebody
    """Another run of the same job has started: this one must not write any more."""


class Lease:
    """The right of one run of a job to write into its run folder."""

    def __init__(self, paths: RunPaths, index: int) -> None:
        """Takes the lease of job `index`; whoever held it before has lost it."""
        self._path = paths.lease(index)
        self.attempt = uuid.uuid4().hex
        self._checked_at = time.monotonic()
        entry: dict[str, object] = {"attempt": self.attempt, "host": socket.gethostname(), "pid": os.getpid()}
        entry |= {"cluster": os.environ.get("SLURM_CLUSTER_NAME"), "slurm_job_id": os.environ.get("SLURM_JOB_ID")}
        entry |= {"restart_count": restart_count(), "since": now()}
        write_json_atomic(self._path, entry)

    def check(self) -> None:
        """Raises LeaseLost if another run holds the lease by now. Reads the file at most every CHECK_EVERY_S."""
        if time.monotonic() - self._checked_at > CHECK_EVERY_S:
            self.check_now()

    def check_now(self) -> None:
        """Raises LeaseLost if another run holds the lease by now."""
        self._checked_at = time.monotonic()
        try:
            entry = json.loads(self._path.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):  # removed or damaged by hand: nobody else has taken it
            return
        if isinstance(entry, dict) and entry.get("attempt") != self.attempt:
            raise LeaseLost(f"another run of this job has started ({_describe(entry)}): this one stops")

    def is_held(self) -> bool:
        """True if no other run has started since."""
        try:
            self.check_now()
        except LeaseLost:
            return False
        return True


def holder_runs_here(paths: RunPaths, index: int) -> bool:
    """True if the run that holds the lease of job `index` is a living process of this host."""
    try:
        entry = json.loads(paths.lease(index).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    pid = entry.get("pid") if isinstance(entry, dict) else None
    return isinstance(pid, int) and entry.get("host") == socket.gethostname() and process_id(pid) is not None


def _describe(entry: Mapping[str, object]) -> str:
    job = entry.get("slurm_job_id")
    slurm = f"Slurm job {job}, restart {entry.get('restart_count')}, " if job else ""
    return f"{slurm}process {entry.get('pid')} on {entry.get('host')} since {entry.get('since')}"
