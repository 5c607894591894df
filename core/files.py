"""Writes and reads files safely: atomic replacement, append-only lines, torn last lines, a lock, end of a log."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LEAST_BYTES = 64 << 10
"""Less free space than this is called none: a failure record may not fit."""


@contextmanager
def replacing(path: Path, mode: int = 0o644) -> Iterator[Path]:
    """Yields a temporary file beside `path` to write to, then syncs it and renames it: no reader sees half a file.

    If the block raises, the temporary file is removed and `path` stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    beside = Path(name)
    try:
        yield beside
        with beside.open("rb+") as file:
            os.fsync(file.fileno())
        beside.chmod(mode)
        beside.replace(path)
    except BaseException as error:
        beside.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # the system names no file when it cannot write on
        raise


def write_text_atomic(path: Path, text: str, mode: int = 0o644) -> None:
    """Writes `text` to a temporary file beside `path`, syncs it to disk and renames it: no reader sees half a file."""
    with replacing(path, mode) as beside:
        beside.write_text(text, encoding="utf-8")


def write_json_atomic(path: Path, value: object) -> None:
    """Writes `value` as indented JSON, atomically. Lone halves of characters, which UTF-8 lacks, are escaped."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    if any("\ud800" <= char <= "\udfff" for char in text):
        text = json.dumps(value, indent=2)
    write_text_atomic(path, text + "\n")


class AppendFile:
    """A file of lines, opened for unbuffered appending. Opening it cuts off a torn last line."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        cut_torn_line(path)
        self._path = path
        self._handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def append(self, line: str) -> None:
        """Appends one line, given with its newline. Raises OSError, which names the file, if it cannot be written.

        Nothing of the line stays then: the next one, if there is space again, must not follow a torn one.
        """
        data, end = line.encode(), os.fstat(self._handle).st_size
        try:
            while data:
                data = data[os.write(self._handle, data) :]
        except OSError as error:
            error.filename = str(self._path)
            with contextlib.suppress(OSError):
                os.ftruncate(self._handle, end)
            raise

    def sync(self) -> None:
        """Waits until the lines are on the disk."""
        os.fsync(self._handle)

    def close(self) -> None:
        """Closes the file for good."""
        os.close(self._handle)


def cut_torn_line(path: Path) -> None:
    """Removes what follows the last newline of a file: the torn line of a writer that was killed."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        end = file.seek(0, os.SEEK_END)
        keep = end
        while keep > 0:
            start = max(0, keep - 65536)
            file.seek(start)
            newline = file.read(keep - start).rfind(b"\n")
            if newline >= 0:
                keep = start + newline + 1
                break
            keep = start
        if keep != end:
            file.truncate(keep)


def whole_lines(path: Path) -> Iterator[str]:
    """Yields the lines of a file that end in a newline: no torn last line, no blank line, none of a missing file."""
    try:
        file = path.open(encoding="utf-8", errors="replace", newline="\n")
    except FileNotFoundError:  # not there, or just merged by another job
        return
    with file:
        for line in file:
            if not line.endswith("\n"):
                return  # its writer is at work; reading on could yield the rest of it as a line
            if line.strip():
                yield line


@contextlib.contextmanager
def locked(path: Path, keep: bool = True) -> Iterator[None]:
    """Holds an exclusive lock on the file `path`, which is created if missing; waits while another process holds it.

    Without `keep` the file is removed at the end, so that many locks leave no files. All users of a path say the same.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with path.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not keep and not _is_file_at(file.fileno(), path):
                continue  # its last holder has removed it: the file that is locked now is another one
            try:
                yield
            finally:
                if not keep:
                    path.unlink(missing_ok=True)
            return


def _is_file_at(handle: int, path: Path) -> bool:
    """True if the open file is the one that `path` names."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def tail(path: Path, num_lines: int) -> str:
    """Returns the last lines of a file; an empty string if there is no file."""
    if not path.exists():
        return ""
    with path.open(encoding="utf-8", errors="replace") as file:
        return "".join(deque(file, num_lines)).rstrip("\n")


def has_space(folder: Path) -> bool:
    """True if files can be written in a folder, as far as its file system says."""
    try:
        return shutil.disk_usage(folder).free >= LEAST_BYTES
    except OSError:
        return True
