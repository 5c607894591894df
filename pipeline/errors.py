"""Errors of the login node and the job: each class says who acts. The layers below raise those of workers.protocol.

Knows nothing of Hydra, Slurm or files.
"""

from __future__ import annotations

from pathlib import Path

from trimode.workers.protocol import TrimodeError


class SubmissionError(TrimodeError):
    """The executor refused a job: carries its words and the script it refused."""

    def __init__(self, message: str, script: str = "") -> None:
        super().__init__(message)
        self.script = script


class JobFailed(TrimodeError):  # noqa: N818 - what happened, not a mistake of somebody
    """A job ended early: carries the path of its failure record, when the job lived to write one."""

    def __init__(self, message: str, record: Path | None = None) -> None:
        super().__init__(message)
        self.record = record

    def __reduce__(self) -> tuple[type[JobFailed], tuple[str, Path | None]]:
        return JobFailed, (str(self), self.record)
