"""Every error that this project raises on purpose, and the one boundary where a command turns them into text.

The class says what failed: what the user asked for (ConfigError, SubmissionError), the infrastructure (WorkerError,
JobFailed), or one request (GenerationError, InvalidRequestError).
"""

from __future__ import annotations

import errno
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

FAILED, USER_ERROR = 1, 2
"""Exit statuses of a command that failed, and of one whose user must act first."""
RUN_AGAIN = 75
"""Exit status of a job that was interrupted and asks to be run again (EX_TEMPFAIL of sysexits.h)."""
START_AGAIN = 69
"""Exit status of a job that can go on at once on the same devices, in a new process (EX_UNAVAILABLE)."""
RESTARTS = "TRIMODE_STEP_RESTARTS"
"""Variable that says to a job how often it was started again in this way. Without it nobody starts it again."""
TERMINATED = 128 + signal.SIGTERM
"""Exit status of a job that SIGTERM has ended in order, as a shell gives it."""

STORAGE_FULL = frozenset({errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ENOSPC, errno.EROFS, errno.ESTALE})
"""What the system says when a file system cannot be written."""
STORAGE_REFUSED = frozenset(
    {
        *(errno.EACCES, errno.EEXIST, errno.EISDIR, errno.ELOOP),
        *(errno.ENAMETOOLONG, errno.ENOTDIR, errno.EPERM),
    }
)
"""What it says of a path that cannot be used; errors without a path have other causes."""
NO_TEMPORARY_FOLDER = "No usable temporary directory found"
"""How the standard library begins the error that every folder for temporary files is full or read-only."""


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
    """Returns what a command prints for an error: the script that was refused if there is one, and the message last."""
    script = error.script if isinstance(error, SubmissionError) else ""
    return (f"The script was:\n{script.rstrip()}\n\n" if script else "") + f"error: {error}"


def storage_problem(error: OSError) -> str | None:
    """Returns one line on a file that cannot be written or read where the user wants it; None for any other error."""
    where = f"{error.filename}: " if error.filename else ""
    if error.errno in STORAGE_FULL or (error.filename and error.errno in STORAGE_REFUSED):
        return (
            f"{where}{error.strerror}; valid: files and folders that you may read and write, with space left "
            "(--out-dir for results, TMPDIR for temporary files)"
        )
    if isinstance(error.strerror, str) and error.strerror.startswith(NO_TEMPORARY_FOLDER):
        return f"{error.strerror}: none can be written; valid: TMPDIR with a folder that has space left"
    return None


def guarded(command: Callable[[], int], text: Callable[[TrimodeError], str] = error_text, failed: int = FAILED) -> int:
    """Runs a command and returns its exit status.

    An error of this project becomes `text` on stderr, without traceback, and status USER_ERROR for a ConfigError or
    `failed` for any other. So does a file that cannot be written or read, as a ConfigError. Other exceptions pass.
    """
    try:
        return command()
    except OSError as error:
        problem = storage_problem(error)
        if problem is None:
            raise
        _say(text(ConfigError(problem)))
        return USER_ERROR
    except TrimodeError as error:
        _say(text(error))
        return USER_ERROR if isinstance(error, ConfigError) else failed


def _say(text: str) -> None:
    """Prints a line on stderr. If nobody reads it any more, the exit status alone says what it says."""
    with suppress(BrokenPipeError):
        print(text, file=sys.stderr, flush=True)
