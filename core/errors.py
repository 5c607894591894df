"""Every error that this project raises on purpose: one tree, and the class says who acts."""

from __future__ import annotations

from pathlib import Path


class TrimodeError(Exception):
    """Root of every error this project raises on purpose."""


class ConfigError(TrimodeError):
    """The user must act before anything starts: names the rule, what came, what is valid. Shown without traceback."""


class WorkerError(TrimodeError):
    """Infrastructure failed (worker died, device lost): restart, retry once elsewhere, then fail the job."""


class GenerationError(TrimodeError):
    """This one request failed; it is recorded with its id and scored as no answer. `status` is the HTTP status."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.message = message
        self.status = status

    def __reduce__(self) -> tuple[type[GenerationError], tuple[str, int]]:
        return GenerationError, (self.message, self.status)


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
