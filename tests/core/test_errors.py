"""The one boundary where a command turns errors into text and an exit status."""

from __future__ import annotations

import errno
import os
import pickle
import signal
from pathlib import Path

import pytest
from trimode.core.errors import (
    NO_TEMPORARY_FOLDER,
    USER_ERROR,
    ConfigError,
    GenerationError,
    InvalidRequestError,
    JobFailed,
    Stopped,
    SubmissionError,
    TrimodeError,
    WorkerError,
    guarded,
)


def raising(error: BaseException) -> int:
    raise error


def test_a_command_keeps_its_status() -> None:
    assert guarded(lambda: 3) == 3


@pytest.mark.parametrize(
    ("error", "status"),
    [(ConfigError("no"), 2), (WorkerError("no"), 1), (SubmissionError("no"), 1), (JobFailed("no"), 1)],
)
def test_an_error_becomes_a_line_and_a_status(
    error: TrimodeError, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert guarded(lambda: raising(error)) == status
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "error: no\n")


def test_a_refused_script_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    guarded(lambda: raising(SubmissionError("no", "#!/bin/sh")))
    assert capsys.readouterr().err == "The script was:\n#!/bin/sh\n\nerror: no\n"


def test_a_command_may_have_its_own_text_and_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(lambda: raising(WorkerError("no")), text=lambda error: f"failed: {error}", failed=7) == 7
    assert capsys.readouterr().err == "failed: no\n"


@pytest.mark.parametrize("error", [ValueError("a mistake of ours"), Stopped(signal.SIGTERM), KeyboardInterrupt()])
def test_anything_else_passes(error: BaseException) -> None:
    with pytest.raises(type(error)):
        guarded(lambda: raising(error))


def test_a_stop_names_its_signal_and_is_no_exception() -> None:
    stopped = Stopped(signal.SIGTERM)
    assert (stopped.signal_name, str(stopped)) == ("SIGTERM", "the job was ended by SIGTERM")
    assert not isinstance(stopped, Exception)


def test_errors_that_cross_processes_survive_pickling() -> None:
    failed = pickle.loads(pickle.dumps(JobFailed("no", Path("/record"))))
    assert (str(failed), failed.record) == ("no", Path("/record"))
    refused = pickle.loads(pickle.dumps(GenerationError("no", 503)))
    assert (refused.message, refused.status) == ("no", 503)


def test_a_refused_request_is_an_error_of_the_project() -> None:
    assert isinstance(InvalidRequestError("no", "n"), TrimodeError)


def test_a_stop_travels_between_processes() -> None:
    stopped = pickle.loads(pickle.dumps(Stopped(signal.SIGTERM)))
    assert (stopped.signal_name, str(stopped)) == ("SIGTERM", "the job was ended by SIGTERM")


def refuse(error: OSError) -> int:
    raise error


@pytest.mark.parametrize(
    "number",
    [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EEXIST],
)
def test_a_file_that_cannot_be_written_is_one_line(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(lambda: refuse(OSError(number, os.strerror(number), "/out/rows"))) == USER_ERROR
    told = capsys.readouterr().err
    assert told.startswith(f"error: /out/rows: {os.strerror(number)}; valid: ")
    assert told.count("\n") == 1


def test_a_full_disk_needs_no_file_name_and_other_errors_pass(capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(lambda: refuse(OSError(errno.ENOSPC, "No space left on device"))) == USER_ERROR
    assert guarded(lambda: refuse(FileNotFoundError(2, f"{NO_TEMPORARY_FOLDER} in ['/tmp']"))) == USER_ERROR
    assert capsys.readouterr().err.count("\n") == 2
    for error in (FileNotFoundError(2, "No such file", "x"), PermissionError(13, "no port"), BrokenPipeError(32, "x")):
        with pytest.raises(type(error)):
            guarded(lambda error=error: refuse(error))  # type: ignore[misc]
