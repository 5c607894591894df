"""The FAILED marker of a job, which can be written on a full disk too: its space is taken when the job starts."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from trimode.core.errors import STORAGE_FULL
from trimode.core.files import write_text_atomic

RESERVED_BYTES = 16 << 10
"""Space that is kept while the job runs: for the cause and the ends of the logs."""


class FailureRecord:
    """FAILED_group<N> of one job, and the file that keeps its space while the job runs."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reserve = path.with_name(f".{path.name}.reserve")

    def reserve(self) -> None:
        """Takes the space, then removes the record of an earlier run. Raises OSError if there is no space."""
        with self._reserve.open("wb") as file:
            file.write(bytes(RESERVED_BYTES))
            file.flush()
            os.fsync(file.fileno())
        self._path.unlink(missing_ok=True)

    def write(self, text: str) -> None:
        """Writes the record, shortened if only the reserved space is left. Raises OSError if it cannot be written."""
        try:
            write_text_atomic(self._path, text)
        except OSError as error:
            if error.errno not in STORAGE_FULL:
                raise
            self._write_in_place(text)
        self.release()

    def _write_in_place(self, text: str) -> None:
        """Writes over the reserved bytes, which takes no new space, and renames the file."""
        data = text.encode()[:RESERVED_BYTES].decode(errors="ignore").encode()
        with self._reserve.open("rb+") as file:
            file.write(data)
            file.truncate()
            os.fsync(file.fileno())
        self._reserve.chmod(0o644)
        self._reserve.replace(self._path)

    def release(self) -> None:
        """Gives the space back."""
        with contextlib.suppress(OSError):
            self._reserve.unlink(missing_ok=True)
