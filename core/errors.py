"""Every error that this project raises on purpose, and the one boundary where a command turns them into text.

The class says what failed: what the user asked for (ConfigError, SubmissionError), the infrastructure (WorkerError,
JobFailed), or one request (GenerationError, InvalidRequestError).
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path

FAILED, USER_ERROR = 1, 2
"""Exit statuses of a command that failed, and of one whose user must act first."""


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


class InvalidRequestError(TrimodeError):
    """The body of a request cannot be served as it is. `param` names the field, or is None."""

    def __init__(self, message: str, param: str | None = None, status: int = 400, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.status = status
        self.code = code


class SubmissionError(TrimodeError):
    """The executor refused a job. Carries its message and the script it refused."""

    def __init__(self, message: str, script: str = "") -> None:
        super().__init__(message)
        self.script = script


class JobFailed(TrimodeError):  # noqa: N818 - an event, not a mistake of somebody
    """A job ended early. Carries the path of its failure record, if the job lived to write one."""

    def __init__(self, message: str, record: Path | None = None) -> None:
        super().__init__(message)
        self.record = record

    def __reduce__(self) -> tuple[type[JobFailed], tuple[str, Path | None]]:
        return JobFailed, (str(self), self.record)


class Stopped(BaseException):
    """A signal ended the work of this process. No error, and no `except Exception` may swallow it."""

    def __init__(self, signum: int) -> None:
        self.signum = signum
        self.signal_name = signal.Signals(signum).name
        super().__init__(f"the job was ended by {self.signal_name}")

    def __reduce__(self) -> tuple[type[Stopped], tuple[int]]:
        return Stopped, (self.signum,)


def error_text(error: TrimodeError) -> str:
    """Returns what a command prints for an error: its message, and the script that was refused if there is one."""
    script = error.script if isinstance(error, SubmissionError) else ""
    return f"error: {error}" + (f"\nThe script was:\n{script}" if script else "")


def guarded(command: Callable[[], int], text: Callable[[TrimodeError], str] = error_text, failed: int = FAILED) -> int:
    """Runs a command and returns its exit status.

    An error of this project becomes `text` on stderr, without traceback, and status USER_ERROR for a ConfigError or
    `failed` for any other. Other exceptions pass.
    """
    try:
        return command()
    except TrimodeError as error:
        print(text(error), file=sys.stderr, flush=True)
        return USER_ERROR if isinstance(error, ConfigError) else failed
