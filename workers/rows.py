"""The files of `generate`: rows to answer, one JSON object per line, and their answers.

A line that is no row costs that row only. An answer is in its file as soon as it is computed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

from trimode.core.errors import ConfigError, WorkerError
from trimode.core.field_rules import show
from trimode.core.files import write_text_atomic

MAX_LINE_BYTES = 64 << 20
"""Longest line that is read."""
MAX_DIGITS = 1000
"""Longer integers are read by their size only. Python refuses to read those of more than 4,300 digits."""
BOM = "\ufeff"


@dataclass(frozen=True, slots=True, kw_only=True)
class InputRow:
    """One line of the input that is not blank."""

    id: object
    """What the row calls itself; the number of its line, from 0, if it gives no id that can be written."""
    fields: Mapping[str, object]
    error: str | None = None
    """Why the line is no row; None if it is one."""


def read_rows(path: Path) -> Iterator[InputRow]:
    """Yields the rows of a file, one by one. ConfigError if it cannot be read."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(_lines(file)):
                if len(line.rstrip(b"\r\n")) > MAX_LINE_BYTES:
                    yield _no_row(number, f"is longer than {MAX_LINE_BYTES} bytes")
                elif line.strip():
                    yield _read_row(number, line)
    except OSError as error:
        raise ConfigError(f"--input {path}: {error}") from None


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Yields the lines of a file. Of a line that is too long only the beginning is kept."""
    while line := file.readline(MAX_LINE_BYTES + 1):
        rest = line
        while len(rest) > MAX_LINE_BYTES and not rest.endswith(b"\n"):
            rest = file.readline(MAX_LINE_BYTES + 1)
        yield line


def _read_row(number: int, line: bytes) -> InputRow:
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        return _no_row(number, f"is not UTF-8: {error.reason} at byte {error.start}")
    if text.startswith(BOM):
        return _no_row(number, "begins with a byte order mark (U+FEFF); valid: UTF-8 without one")
    try:
        row = json.loads(text, parse_int=_integer)
    except json.JSONDecodeError as error:
        return _no_row(number, f"is not JSON: {error}")
    except (RecursionError, MemoryError) as error:
        return _no_row(number, f"is nested too deeply or is too large: {type(error).__name__}")
    if not isinstance(row, dict):
        return _no_row(number, f"holds {show(row)}; valid: an object")
    row_id = row.get("id", number)
    try:
        if isinstance(row_id, list | dict):
            raise ValueError
        json.dumps(row_id, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        shown = row_id if isinstance(row_id, str) else number
        return InputRow(id=shown, fields={}, error="id: got half a surrogate pair; valid: Unicode text")
    except ValueError:  # a list, an object, NaN, infinity, or an integer of too many digits
        return InputRow(id=number, fields={}, error=f"id: got {show(row_id)}; valid: a string or a number")
    return InputRow(id=row_id, fields=row)


def _no_row(number: int, fault: str) -> InputRow:
    return InputRow(id=number, fields={}, error=f"line {number + 1} {fault}")


def _integer(digits: str) -> int:
    """Returns the integer; for one of too many digits, a number of about its size, which every field refuses."""
    if len(digits) <= MAX_DIGITS:
        return int(digits)
    size: int = 10 ** min(len(digits.lstrip("-")) - 1, 10 * MAX_DIGITS)
    return -size if digits.startswith("-") else size


class AnswerFile:
    """The answers, one JSON object per line.

    A line is appended as soon as its row has ended, so whatever ends the process, all that was computed is in the file.
    `finish` puts the lines into the order of the rows.
    """

    def __init__(self, path: Path) -> None:
        """Empties the file. ConfigError if it cannot be written."""
        self._path = path
        self._lines: dict[int, str] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("wb", buffering=0)
        except OSError as error:
            raise ConfigError(f"--output {path}: {error}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        """Number of rows that have an answer."""
        return len(self._lines)

    def append(self, place: int, result: Mapping[str, object]) -> None:
        """Writes the result of the row number `place`. WorkerError if there is no room for it."""
        line = _json_line(result)
        self._lines[place] = line
        try:
            data = line.encode()
            while data:
                data = data[self._file.write(data) :]
        except OSError as error:
            raise WorkerError(f"--output {self._path}: {error}") from None

    def finish(self) -> None:
        """Puts the lines into the order of the rows, if they are not. A reader sees the old file or the new one."""
        places = list(self._lines)
        if places == sorted(places):
            return
        try:
            write_text_atomic(self._path, "".join(self._lines[place] for place in sorted(places)))
        except OSError as error:
            raise WorkerError(f"--output {self._path}: {error}; its lines are in the order of their end") from None


def _json_line(result: Mapping[str, object]) -> str:
    line = json.dumps(result, ensure_ascii=False) + "\n"
    try:
        line.encode()
    except UnicodeEncodeError:  # half a surrogate pair in an id can be written as an escape only
        return json.dumps(result) + "\n"
    return line
