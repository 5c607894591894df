"""Fetches benchmark rows from the Hugging Face hub with its `datasets` package and writes them where `load_rows` looks.

evaluate.py uses this when no data were prepared beforehand.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
from trimode.core.errors import ConfigError
from trimode.core.files import write_text_atomic
from trimode.core.protocol import Row
from trimode.pipeline.benchmarks import Benchmark
from trimode.pipeline.data import convert_choices, convert_instructions, convert_math
from trimode.pipeline.data.load import data_root, each, has_rows, prepared_path
from trimode.pipeline.data.prepare import PrepareOptions, prepare


@dataclass(frozen=True, slots=True, kw_only=True)
class HubDataset:
    """A data set of the hub whose rows have the publisher's fields of a benchmark."""

    path: str
    """owner/name."""
    config: str | None = None
    split: str = "test"
    convert: Callable[[Sequence[Row]], list[Row]]
    """Converts raw rows to prepared ones."""


Tasks = Mapping[str, HubDataset | None]
"""Benchmark -> the hub's data set for it. None: bundled, or `prepare` downloads it from its publisher."""

TASKS: Tasks = {
    "gsm8k": HubDataset(
        path="openai/gsm8k",
        config="main",
        split="test",
        convert=each(convert_math.gsm8k),
    ),
    "math-500": HubDataset(
        path="HuggingFaceH4/MATH-500",
        split="test",
        convert=each(convert_math.math_500),
    ),
    "mmlu-pro": HubDataset(
        path="TIGER-Lab/MMLU-Pro",
        split="test",
        convert=each(convert_choices.mmlu_pro),
    ),
    "gpqa": HubDataset(
        path="Idavidrein/gpqa",
        config="gpqa_diamond",
        split="train",
        convert=convert_choices.gpqa,
    ),
    "ifeval": HubDataset(
        path="google/IFEval",
        split="train",
        convert=each(convert_instructions.ifeval),
    ),
    "mmlu": None,
    "aime24": None,
    "aime25": None,
    "human-eval": None,
    "mbpp": None,
    "livecodebench": None,
    "demo-math": None,
    "demo-long": None,
    "demo-mcq": None,
    "demo-code": None,
    "demo-if": None,
}
"""Benchmarks that evaluate.py offers as --tasks."""


def ensure_rows(benchmark: Benchmark, data_dir: Path | None, hub: HubDataset | None) -> None:
    """Makes sure that `load_rows` finds rows: fetches missing ones from the hub, or from their publisher.

    A folder given by the user is only read. Raises ConfigError that names both ways if nothing worked.
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
    """Returns all rows, prepared. Raises ConfigError if the hub does not give them."""
    datasets = importlib.import_module("datasets")
    try:
        raws = datasets.load_dataset(hub.path, hub.config, split=hub.split)
    except (OSError, ValueError, RuntimeError, httpx.HTTPError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(f"the hub's {hub.path} failed: {type(error).__name__}: {reason}") from error
    return hub.convert([dict(raw) for raw in raws])
