"""What a job prints and how it is interrupted: output copied into the job's log, signals turned into an orderly end.

Knows nothing of what the job does.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import IO


class Tee(io.TextIOBase):
    """A text stream that writes to the stream it replaces and to the job's log."""

    def __init__(self, stream: IO[str], log: IO[str]) -> None:
        self._stream = stream
        self._log = log

    def write(self, text: str) -> int:
        """Writes to both; returns the number of characters."""
        self._log.write(text)
        return self._stream.write(text)

    def flush(self) -> None:
        """Flushes both."""
        self._log.flush()
        self._stream.flush()

    def isatty(self) -> bool:
        """As the stream it replaces."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """As the stream it replaces."""
        return self._stream.fileno()


class JobLog:
    """Copies all this process prints into one file, appended over resumes; a context manager."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._streams = (sys.stdout, sys.stderr)

    def __enter__(self) -> JobLog:
        self._file = self.path.open("a", encoding="utf-8", buffering=1)
        self._streams = (sys.stdout, sys.stderr)
        sys.stdout = Tee(self._streams[0], self._file)
        sys.stderr = Tee(self._streams[1], self._file)
        return self

    def __exit__(self, *_error: object) -> None:
        sys.stdout, sys.stderr = self._streams
        self._file.close()

    @property
    def terminal(self) -> IO[str] | None:
        """The terminal this process prints on, or None."""
        return self._streams[0] if self._streams[0].isatty() else None

    def write_line(self, line: str) -> None:
        """A line for the log alone."""
        self._file.write(line + "\n")
