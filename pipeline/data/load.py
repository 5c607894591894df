"""Finds a benchmark's rows on disk: prepared (NeMo-Skills' form), raw as published, or bundled with this repository.

A data folder that the user names counts for all benchmarks, the bundled ones included.

Never downloads: `prepare` fetches what is missing here.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from trimode.core.errors import ConfigError
from trimode.core.project import ASSETS_DIR
from trimode.core.protocol import Row
from trimode.pipeline.benchmarks import Benchmark
from trimode.pipeline.data import convert_choices, convert_code, convert_instructions, convert_math
from trimode.pipeline.data.formats import iter_jsonl, read_csv, read_jsonl, read_mmlu_tar, read_parquet
from trimode.pipeline.data.row_checks import converted, row_error
from trimode.pipeline.data.sources import SOURCES

log = logging.getLogger(__name__)

BUNDLED_DIR = ASSETS_DIR / "benchmarks"


@dataclass(frozen=True, slots=True)
class RawForm:
    """One raw form of a benchmark: its files (a glob), how they are read, and how their rows are converted."""

    pattern: str
    read: Callable[[Path], list[Row]]
    convert: Callable[[Sequence[Row]], list[Row]]


def each(convert: Callable[[Row], Row]) -> Callable[[Sequence[Row]], list[Row]]:
    """Returns a conversion of many rows, from a conversion of one row. A row that fails costs nothing but itself."""
    return lambda raws: [converted(convert, raw) for raw in raws]


def read_livecodebench(path: Path) -> list[Row]:
    """Returns the problems of one release file that belong to the split. Skips the others while reading (gigabytes)."""
    return [row for row in iter_jsonl(path) if convert_code.in_window(row)]


RAW_FORMS: dict[str, tuple[RawForm, ...]] = {
    "gsm8k": (RawForm("test_original.jsonl", read_jsonl, each(convert_math.gsm8k)),),
    "math-500": (RawForm("test_original.jsonl", read_jsonl, each(convert_math.math_500)),),
    "aime24": (RawForm("test_ns.jsonl", read_jsonl, each(convert_math.aime)),),
    "aime25": (RawForm("test_ns.jsonl", read_jsonl, each(convert_math.aime)),),
    "gpqa": (RawForm("gpqa_diamond.csv", read_csv, convert_choices.gpqa),),
    "mmlu": (
        RawForm("test_original.jsonl", read_jsonl, each(convert_choices.mmlu)),
        RawForm("data.tar", read_mmlu_tar, each(convert_choices.mmlu)),
    ),
    "mmlu-pro": (RawForm("test-*.parquet", read_parquet, each(convert_choices.mmlu_pro)),),
    "human-eval": (RawForm("HumanEvalPlus-*.jsonl.gz", read_jsonl, each(convert_code.evalplus)),),
    "mbpp": (RawForm("MbppPlus-*.jsonl.gz", read_jsonl, each(convert_code.evalplus)),),
    "ifeval": (RawForm("input_data.jsonl", read_jsonl, each(convert_instructions.ifeval)),),
    "livecodebench": (
        RawForm("code_generation_lite/test*.jsonl", read_livecodebench, each(convert_code.livecodebench)),
    ),
}


def data_root(data_dir: Path | None) -> Path:
    """Returns the data folder: the one given, else $TRIMODE_DATA_DIR, else `trimode/data` in the user's cache."""
    if data_dir is not None:
        return data_dir.expanduser()
    if named := os.environ.get("TRIMODE_DATA_DIR"):
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "trimode" / "data"


def load_rows(benchmark: Benchmark, data_dir: Path | None) -> list[Row]:
    """Returns all rows of the split, in order, with NeMo-Skills' fields. Warns if rows are missing or too many.

    Rows that cannot be asked (`row_checks.row_error`) keep their place, with a warning. Raises ConfigError if there is
    no file (naming both ways to get one), it ends early, or none of its rows can be asked.
    """
    path, rows = _find(benchmark, data_dir)
    if not rows:
        raise ConfigError(f"{path} holds no rows; {benchmark.name} has {benchmark.num_samples}")
    errors = [(number, error) for number, row in enumerate(rows, 1) if (error := row_error(benchmark, row))]
    if len(errors) == len(rows):
        raise ConfigError(
            f"{path}: no row can be asked: row 1 {errors[0][1]}. "
            f"A prepared file has NeMo-Skills' fields; a raw file must be named {_raw_names(benchmark)}"
        )
    if errors:
        log.warning(
            "%s: %d of %d rows cannot be asked and are recorded without an answer; the first: row %d %s",
            *(path, len(errors), len(rows), *errors[0]),
        )
    if len(rows) != benchmark.num_samples:
        log.warning("%s: %d rows; the full %s has %d", path, len(rows), benchmark.name, benchmark.num_samples)
    return rows


def prepared_path(benchmark: Benchmark, data_dir: Path | None) -> Path:
    """Returns the path of the prepared rows of a downloaded benchmark."""
    return data_root(data_dir) / benchmark.name / f"{benchmark.split}.jsonl"


def has_rows(benchmark: Benchmark, data_dir: Path | None) -> bool:
    """True if `load_rows` would find a file for a benchmark that is not bundled."""
    ready = prepared_path(benchmark, data_dir)
    prepared = ready.is_file() or ready.with_name("test.jsonl").is_file()
    return prepared or raw_form(benchmark, ready.parent) is not None


def raw_form(benchmark: Benchmark, folder: Path) -> tuple[RawForm, list[Path]] | None:
    """Returns the first raw form whose files lie in `folder`, and the files to read in order. None if there is none."""
    pinned = [file.name for file in SOURCES.get(benchmark.name, ())]
    for form in RAW_FORMS.get(benchmark.name, ()):
        files = sorted(folder.glob(form.pattern))
        if known := [folder / name for name in pinned if folder / name in files]:
            return form, known
        if files:
            return form, files[-1:]
    return None


def _find(benchmark: Benchmark, data_dir: Path | None) -> tuple[Path, list[Row]]:
    if benchmark.source == "bundled" and data_dir is None:
        path = BUNDLED_DIR / benchmark.name / f"{benchmark.split}.jsonl"
        if not path.is_file():
            raise ConfigError(f"{benchmark.name} comes with the repository, but {path} is missing: restore it from git")
        return path, read_jsonl(path)
    prepared = prepared_path(benchmark, data_dir)
    for path in (prepared, prepared.with_name("test.jsonl")):
        if path.is_file():
            return path, read_jsonl(path)
    if found := raw_form(benchmark, prepared.parent):
        form, files = found
        return files[0], form.convert([row for file in files for row in form.read(file)])
    if benchmark.source == "bundled":
        raise ConfigError(
            f"no data for {benchmark.name}: nothing in {prepared.parent}, where --data-dir has it looked for. Either "
            f"put its rows there ({prepared.name}), or leave --data-dir out: then the rows in {BUNDLED_DIR} are used"
        )
    if benchmark.name in SOURCES:
        command = f"python -m trimode.pipeline.data prepare {benchmark.name} --data-dir {data_root(data_dir)}"
        way = f"download it with `{command}`"
    else:
        way = f"make it with NeMo-Skills' `ns prepare_data {benchmark.name}`"
    raise ConfigError(
        f"no data for {benchmark.name}: nothing in {prepared.parent}. Either {way}, or give a folder with --data-dir "
        f"(or TRIMODE_DATA_DIR) that holds {benchmark.name}/{prepared.name} (prepared) or {benchmark.name}/ with "
        f"{_raw_names(benchmark)}"
    )


def _raw_names(benchmark: Benchmark) -> str:
    return " or ".join(form.pattern for form in RAW_FORMS.get(benchmark.name, ())) or f"{benchmark.split}.jsonl"
