"""Readers of the file formats that benchmarks come in: JSON lines (plain or gzip), csv, parquet, MMLU's tar.

A file that ends early is a ConfigError that names the file and the line. A damaged line costs its row only.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import importlib
import io
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from trimode.core.errors import ConfigError
from trimode.core.protocol import Row
from trimode.pipeline.data.row_checks import DATA_ERROR, parse_line


def iter_jsonl(path: Path) -> Iterator[Row]:
    """Yields one object per line and skips empty lines. Raises ConfigError with the line number of a broken one."""
    for number, line in _lines(path):
        row = parse_line(line)
        if row.keys() == {DATA_ERROR}:
            raise ConfigError(f"{path}: damaged or cut short near line {number} (it {row[DATA_ERROR]})")
        yield row


def read_jsonl(path: Path) -> list[Row]:
    """Returns the rows of a data file. A damaged line becomes a row with nothing but the reason (DATA_ERROR).

    Raises ConfigError if the file ends within a line: then rows are missing and not only damaged.
    """
    rows = []
    for number, line in _lines(path):
        row = parse_line(line)
        if row.keys() == {DATA_ERROR} and not line.endswith(b"\n"):
            raise ConfigError(f"{path}: damaged or cut short near line {number} (it {row[DATA_ERROR]})")
        rows.append(row)
    return rows


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yields the lines of a plain or gzip file that are not blank, each with its number, from 1."""
    number = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            for line in file:
                number += 1
                if line.removeprefix(codecs.BOM_UTF8).strip():
                    yield number, line
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ConfigError(f"{path}: damaged or cut short near line {number} ({error})") from error


def read_csv(path: Path) -> list[Row]:
    """Returns one row per record, with the header's names."""
    with path.open(encoding="utf-8", newline="") as file:
        return [dict(record) for record in csv.DictReader(file)]


def read_parquet(path: Path) -> list[Row]:
    """Returns all rows. Raises ConfigError if pyarrow is not installed."""
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise ConfigError(f"{path} is parquet: reading it needs pyarrow (pip install 'trimode[data]')") from error
    rows: list[Row] = parquet.read_table(path).to_pylist()
    return rows


def read_mmlu_tar(path: Path) -> list[Row]:
    """Returns the test questions in MMLU's data.tar, in its order: {subject, question, A, B, C, D, answer}."""
    try:
        with tarfile.open(path) as tar:
            return [row for member in tar for row in _mmlu_member(tar, member)]
    except (tarfile.TarError, EOFError) as error:
        raise ConfigError(f"{path} cannot be read ({error}); the file is damaged or cut short") from error


def _mmlu_member(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Iterator[Row]:
    if not (member.name.startswith("data/test/") and member.name.endswith(".csv")):
        return
    file = tar.extractfile(member)
    assert file is not None
    subject = Path(member.name).name.rsplit("_", 1)[0]
    for record in csv.reader(io.TextIOWrapper(file, encoding="utf-8")):
        if len(record) == 6:
            yield {"subject": subject, **dict(zip(("question", "A", "B", "C", "D", "answer"), record, strict=True))}
