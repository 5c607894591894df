"""HumanEval+ and MBPP+: finds the dataset, and caches what the reference solutions return and how long they take.

Expected outputs take a minute to compute. The cache folder keeps them per problem, under the dataset's checksum. They
stay packed here, because only the process that runs an answer needs them.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import gzip
import hashlib
import json
import os
import pickle
import tempfile
import time
import zlib
from pathlib import Path
from typing import Any

from trimode.core.errors import ConfigError
from trimode.pipeline.benchmarks import Benchmark
from trimode.pipeline.data.load import data_root
from trimode.pipeline.scoring.cache import cache_dir
from trimode.pipeline.scoring.code.plus.inputs import python_inputs

RELEASES = {
    "humaneval": ("HumanEvalPlus", "v0.1.9", "HUMANEVAL_OVERRIDE_PATH"),
    "mbpp": ("MbppPlus", "v0.2.0", "MBPP_OVERRIDE_PATH"),
}
"""evalplus' dataset name -> (file name, release that NeMo-Skills 0.7.0 uses, variable that names another file)."""
NOT_NONE_TASKS = ("check_str", "text_match_three", "text_starta_endb")
"""MBPP entry points where only the presence of a result (not None) is compared."""
Oracle = tuple[list[Any], list[Any], list[float]]
"""Inputs, the reference solution's result for each, and the seconds each took."""
ORACLE_FORMAT = "1"
"""Version of the packed form, part of the cache path."""


def dataset_path(benchmark: Benchmark, data_dir: Path | None) -> Path:
    """Returns the dataset's file. Raises ConfigError with URL and target path if there is none."""
    name, version, variable = _release(benchmark)
    if override := os.environ.get(variable):
        if not Path(override).is_file():
            raise ConfigError(f"{variable} names the dataset of {benchmark.name}: {override} is no file")
        return Path(override)
    folder = data_root(data_dir) / benchmark.name
    target = folder / f"{name}-{version}.jsonl.gz"
    found = [target, target.with_suffix(""), *sorted(folder.glob(f"{name}*.jsonl*"))]
    for path in found:
        if path.is_file():
            return path
    url = f"https://github.com/evalplus/{name.lower()}_release/releases/download/{version}/{name}.jsonl.gz"
    raise ConfigError(
        f"{benchmark.name} is scored with {name} {version} and it is not there; run "
        f"`python -m trimode.pipeline.data prepare {benchmark.name}`, or put {url} at {target}, or set {variable}"
    )


def _release(benchmark: Benchmark) -> tuple[str, str, str]:
    if benchmark.dataset not in RELEASES:
        raise ConfigError(f"dataset of {benchmark.name}: got {benchmark.dataset!r}; valid: {', '.join(RELEASES)}")
    return RELEASES[benchmark.dataset]


@functools.cache
def read_dataset(path: Path) -> tuple[str, dict[str, dict[str, Any]]]:
    """Returns (checksum, task_id -> problem). Raises ConfigError for a damaged file."""
    content = path.read_bytes()
    try:
        text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8")
        problems = [json.loads(line) for line in text.splitlines() if line.strip()]
        return hashlib.sha256(text.encode()).hexdigest(), {problem["task_id"]: problem for problem in problems}
    except (OSError, EOFError, ValueError, KeyError) as error:
        raise ConfigError(f"{path} is not a HumanEval+ or MBPP+ file: {error}") from error


def packed_oracle(benchmark: Benchmark, task_id: str, data_dir: Path | None) -> bytes:
    """Returns one problem's {base, plus} -> Oracle as a zlib-packed pickle, from the cache if it is there.

    Raises ConfigError if the dataset has no such problem.
    """
    path = dataset_path(benchmark, data_dir)
    checksum, problems = read_dataset(path)
    if task_id not in problems:
        known = f"{len(problems)} others, as {next(iter(problems), None)!r}"
        raise ConfigError(f"{path} has no problem {task_id!r}; it has {known}")
    kept = cache_dir() / "plus_oracles" / f"{checksum[:16]}-{ORACLE_FORMAT}" / f"{task_id.replace('/', '_')}.pickle.z"
    with contextlib.suppress(OSError):
        return kept.read_bytes()
    packed = zlib.compress(pickle.dumps(compute_oracle(benchmark, problems[task_id]), protocol=5), level=1)
    _keep(kept, packed)
    return packed


def compute_oracle(benchmark: Benchmark, problem: dict[str, Any]) -> dict[str, Oracle]:
    """Runs the reference solution on every input, in this process without limits: the dataset is trusted."""
    scope: dict[str, Any] = {}
    exec(problem["prompt"] + problem["canonical_solution"], scope)  # noqa: S102 - the dataset's own reference solution
    function = scope[problem["entry_point"]]
    oracle = {}
    for part in ("base", "plus"):
        inputs = problem[f"{part}_input"]
        if benchmark.dataset == "mbpp":
            inputs = python_inputs(problem["task_id"], inputs)
        outputs, seconds = [], []
        for arguments in inputs:
            own = copy.deepcopy(arguments)
            started = time.time()
            outputs.append(function(*own))
            seconds.append(time.time() - started)
        if benchmark.dataset == "mbpp" and problem["entry_point"] in NOT_NONE_TASKS:
            outputs = [output is not None for output in outputs]
        oracle[part] = (list(inputs), outputs, seconds)
    return oracle


def _keep(path: Path, content: bytes) -> None:
    """Writes a cache file atomically. Errors are ignored: the cache is optional."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(name).replace(path)
