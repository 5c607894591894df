"""Writes and reads files safely: atomic replacement, append-only lines, torn last lines, last lines of a log."""

from __future__ import annotations

import json
import os
import tempfile
from collections import deque
from collections.abc import Iterator
from pathlib import Path


def write_text_atomic(path: Path, text: str, mode: int = 0o644) -> None:
    """Writes `text` beside `path`, flushes it to disk and renames it, so that a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(mode)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_json_atomic(path: Path, value: object) -> None:
    """Writes `value` as indented JSON, atomically."""
    write_text_atomic(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


class AppendFile:
    """A file of lines opened for appending, unbuffered; a torn last line is cut off when it is opened."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        cut_torn_line(path)
        self._handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def append(self, line: str) -> None:
        """Adds one line (newline included). Raises OSError when the disk refuses."""
        data = line.encode()
        while data:
            data = data[os.write(self._handle, data) :]

    def sync(self) -> None:
        """Waits until the file is on the disk."""
        os.fsync(self._handle)

    def close(self) -> None:
        """Closes the file; it can not be used again."""
        os.close(self._handle)


def cut_torn_line(path: Path) -> None:
    """Removes what follows the last newline of a file: a line whose writer was killed in the middle."""
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
    """The lines of a file that end in a newline; a torn last line is left out, a missing file has none."""
    try:
        file = path.open(encoding="utf-8", errors="replace", newline="\n")
    except FileNotFoundError:  # not there, or just merged by another job
        return
    with file:
        for line in file:
            if not line.endswith("\n"):
                return  # while it is being written, going on would give the rest of it as a line of its own
            if line.strip():
                yield line


def tail(path: Path, num_lines: int) -> str:
    """The last lines of a file; empty when there is none."""
    if not path.exists():
        return ""
    with path.open(encoding="utf-8", errors="replace") as file:
        return "".join(deque(file, num_lines)).rstrip("\n")
