"""Prepares a benchmark's data in the data folder: takes files already there, downloads the rest, checks, converts.

NLTK's Punkt model, which IFEval's checks need, is prepared the same way.
"""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

from trimode.core.errors import ConfigError
from trimode.core.files import write_text_atomic
from trimode.pipeline.benchmarks import load_benchmark
from trimode.pipeline.data import download
from trimode.pipeline.data.load import data_root, load_rows, prepared_path, raw_form, read_livecodebench
from trimode.pipeline.data.sources import SOURCES, RawFile

PUNKT = "nltk_punkt"
PUNKT_FOLDER = "tokenizers/punkt_tab/english"
PUNKT_FILES = ("abbrev_types.txt", "collocations.tab", "ortho_context.tab", "sent_starters.txt")


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareOptions:
    """How to prepare."""

    data_dir: Path | None = None
    """None: $TRIMODE_DATA_DIR, else the cache."""
    mirror: str | None = None
    """Base URL with the layout of a data folder (`<mirror>/<benchmark>/<file>`). None: the publishers' addresses."""
    any_version: bool = False
    """Accept files whose checksum or number of rows is not the published one."""
    wait_s: float = 1.0
    """Seconds before a download is tried again the first time. Doubles each time."""


def prepare(name: str, options: PrepareOptions) -> str:
    """Prepares `name` and returns one line about the result. Raises ConfigError with the URL and path to act on."""
    if name == PUNKT:
        return _prepare_punkt(options)
    benchmark = load_benchmark(name)
    if benchmark.source == "bundled":
        return f"{name}: {len(load_rows(benchmark, None))} rows, part of the repository"
    if name not in SOURCES:
        raise ConfigError(f"{name} has no download: its data is made by NeMo-Skills' own `ns prepare_data {name}`")
    ready = prepared_path(benchmark, options.data_dir)
    folder = ready.parent
    fetched = [file for file in SOURCES[name] if _fetch_if_missing(name, file, options)]
    source = "downloaded" if fetched else "already there"
    rows = load_rows(benchmark, options.data_dir)
    if len(rows) != benchmark.num_samples and not options.any_version:
        raise ConfigError(
            f"{folder} holds {len(rows)} rows of {name}, the full split has {benchmark.num_samples}: delete the file "
            "and prepare again, or pass --any-version to take it as it is"
        )
    if fetched and not ready.exists():
        if name == "livecodebench":
            _write_tests(folder)
        write_text_atomic(ready, "".join(json.dumps(row) + "\n" for row in rows))
    return f"{name}: {len(rows)} rows, {source} in {folder}"


def _fetch_if_missing(name: str, file: RawFile, options: PrepareOptions) -> bool:
    """Returns True if the file was downloaded, False if it, or rows made from it, are there already."""
    root = data_root(options.data_dir)
    target = root / name / file.name
    if target.is_file():
        if not options.any_version:
            download.check(file, target)
        return False
    if name != PUNKT and _has_rows(name, options):
        return False
    urls = (f"{options.mirror.rstrip('/')}/{name}/{file.name}",) if options.mirror else file.urls
    download.fetch(file, urls, target, wait_s=options.wait_s)
    if not options.any_version:
        try:
            download.check(file, target)
        except ConfigError:
            target.unlink()
            raise
    return True


def _has_rows(name: str, options: PrepareOptions) -> bool:
    """True if the raw file is not needed because prepared rows exist.

    Code benchmarks always need it: their scorer reads it.
    """
    benchmark = load_benchmark(name)
    ready = prepared_path(benchmark, options.data_dir)
    if name in ("human-eval", "mbpp"):
        return False
    if ready.is_file() or ready.with_name("test.jsonl").is_file():
        return True
    return len(SOURCES[name]) == 1 and raw_form(benchmark, ready.parent) is not None


def _write_tests(folder: Path) -> None:
    """Writes the split's problems in the publisher's columns, where LiveCodeBench's scorer reads their tests."""
    with (folder / ".tests.jsonl").open("w", encoding="utf-8") as file:
        for raw in SOURCES["livecodebench"]:
            for row in read_livecodebench(folder / raw.name):
                file.write(json.dumps(row) + "\n")
    (folder / ".tests.jsonl").replace(folder / "tests.jsonl")


def _prepare_punkt(options: PrepareOptions) -> str:
    folder = data_root(options.data_dir) / PUNKT
    model = folder / PUNKT_FOLDER
    if all((model / name).is_file() for name in PUNKT_FILES):
        return f"{PUNKT}: already there in {model}"
    (archive,) = SOURCES[PUNKT]
    _fetch_if_missing(PUNKT, archive, options)
    with zipfile.ZipFile(folder / archive.name) as packed:
        for name in PUNKT_FILES:
            write_text_atomic(model / name, packed.read(f"punkt_tab/english/{name}").decode())
    return f"{PUNKT}: unpacked in {model}"
