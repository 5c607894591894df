"""Copies what a job prints into the job's log."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from pathlib import Path
from typing import IO, TextIO


def printable(text: str, encoding: str = "utf-8") -> str:
    """Returns `text` with every character that `encoding` lacks as an escape, lone surrogates for example."""
    return text.encode(encoding, "backslashreplace").decode(encoding)


class LogFile:
    """A file that text is appended to at once. What does not fit on a full disk is lost, and nobody fails for it."""

    def __init__(self, path: Path) -> None:
        self._handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def write(self, text: str) -> None:
        """Appends text. A character that UTF-8 lacks is written as an escape."""
        data = printable(text).encode()
        with contextlib.suppress(OSError):
            while data:
                data = data[os.write(self._handle, data) :]

    def close(self) -> None:
        """Closes the file."""
        os.close(self._handle)


class Tee(io.TextIOBase):
    """A text stream that writes to the stream it replaces, and to the job's log."""

    def __init__(self, stream: TextIO, log: LogFile) -> None:
        self._stream = stream
        self._log = log

    def write(self, text: str) -> int:
        """Writes to both. Returns the number of characters."""
        self._log.write(text)
        self._stream.write(printable(text, self._stream.encoding or "utf-8"))
        return len(text)

    def flush(self) -> None:
        """Flushes the stream; the log has everything already."""
        self._stream.flush()

    def isatty(self) -> bool:
        """Answers as the stream it replaces does."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """Answers as the stream it replaces does."""
        return self._stream.fileno()


class JobLog:
    """A context manager that copies all this process prints into one file. A resumed job appends to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._streams = (sys.stdout, sys.stderr)

    def __enter__(self) -> JobLog:
        self._file = LogFile(self.path)
        self._streams = (sys.stdout, sys.stderr)
        sys.stdout = Tee(self._streams[0], self._file)
        sys.stderr = Tee(self._streams[1], self._file)
        return self

    def __exit__(self, *_error: object) -> None:
        sys.stdout, sys.stderr = self._streams
        self._file.close()

    @property
    def terminal(self) -> IO[str] | None:
        """The terminal this process prints on; None if it prints elsewhere."""
        return self._streams[0] if self._streams[0].isatty() else None

    def write_line(self, line: str) -> None:
        """Writes a line to the log only."""
        self._file.write(line + "\n")
