"""Benchmark rows from the Hugging Face hub through its `datasets` package, written where `load_rows` finds them.

Knows no model and no prompt; used where nobody prepared data beforehand.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
from trimode.core.errors import ConfigError
from trimode.core.files import write_text_atomic
from trimode.pipeline.benchmarks import Benchmark
from trimode.pipeline.data.load import data_root, has_rows, prepared_path
from trimode.pipeline.data.prepare import PrepareOptions, prepare

Row = dict[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class HubDataset:
    """A data set of the hub whose rows have the raw fields of a benchmark."""

    path: str
    """owner/name."""
    config: str | None = None
    split: str = "test"
    convert: Callable[[Sequence[Row]], list[Row]]
    """Raw rows to prepared ones."""


def ensure_rows(benchmark: Benchmark, data_dir: Path | None, hub: HubDataset | None) -> None:
    """Returns when `load_rows` will find rows: they are there, or now come from the hub, or from their publisher.

    A folder given by the user is only read. Raises ConfigError that names both ways when nothing worked.
    """
    if benchmark.source == "bundled" or data_dir is not None or has_rows(benchmark, None):
        return
    try:
        if hub is not None and importlib.util.find_spec("datasets") is not None:
            rows = fetch_rows(hub)
            write_text_atomic(prepared_path(benchmark, None), "".join(json.dumps(row) + "\n" for row in rows))
        else:
            prepare(benchmark.name, PrepareOptions())
    except ConfigError as error:
        raise ConfigError(
            f"no data for {benchmark.name}. With network, it comes by itself ({error}). "
            f"Without, give --data-dir DIR (or TRIMODE_DATA_DIR) with DIR/{benchmark.name}/ holding the prepared "
            f"{benchmark.split}.jsonl or the raw file; looked in {data_root(None) / benchmark.name}"
        ) from error


def fetch_rows(hub: HubDataset) -> list[Row]:
    """All rows, prepared. Raises ConfigError when the hub does not give them."""
    datasets = importlib.import_module("datasets")
    try:
        raws = datasets.load_dataset(hub.path, hub.config, split=hub.split)
    except (OSError, ValueError, RuntimeError, httpx.HTTPError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(f"the hub's {hub.path} failed: {type(error).__name__}: {reason}") from error
    return hub.convert([dict(raw) for raw in raws])
