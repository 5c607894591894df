"""Looks at the disk before the plan is made and after: which weights are meant, and how far each job's folder has come.

Reads only; starts nothing and knows no Slurm.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from trimode.core.errors import ConfigError
from trimode.core.project import PROJECT_DIR
from trimode.pipeline.config import Config
from trimode.pipeline.identity import folder_fingerprint
from trimode.pipeline.run_folder.paths import RunPaths
from trimode.pipeline.run_folder.resume import is_finished, remaining
from trimode.pipeline.spec import JobSpec

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
LORA_FOLDER = "linear_spec_lora"


@dataclass(frozen=True, slots=True)
class Weights:
    """A folder or hub id, and what identifies its content."""

    path: str
    """Absolute folder, or hub id."""
    fingerprint: str
    is_folder: bool = True
    found: bool = True
    """False: a folder that is not there (yet)."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What the plan needs to know of the disk."""

    cwd: Path
    """Relative paths mean this folder: the caller's."""
    model: Weights
    tokenizer: Weights | None
    adapter: Weights | None
    """None when no mode uses one."""
    config_limit: int | None = None
    """Context limit in the model folder's config.json; None when it cannot be read here."""


class Progress(StrEnum):
    """How far a job's folder has come."""

    NEW = "new"
    RESUMED = "resumed"
    SKIPPED = "skipped"
    """Finished: nothing is left to run."""


@dataclass(frozen=True, slots=True)
class JobState:
    """A planned job and what is left of it."""

    spec: JobSpec
    progress: Progress
    num_left: int
    """Requests still to send."""


def survey(config: Config, cwd: Path) -> Survey:
    """What a config's paths mean. Raises ConfigError for a missing adapter or a revision of a folder."""
    model = find_weights(config.model.path, cwd, config.model.revision)
    tokenizer = find_weights(config.model.tokenizer, cwd, None) if config.model.tokenizer else None
    adapter = _find_adapter(config, cwd, model) if any(mode.lora for mode in config.modes.values()) else None
    return Survey(cwd, model, tokenizer, adapter, _config_limit(model))


def _config_limit(model: Weights) -> int | None:
    try:
        limit = json.loads((Path(model.path) / "config.json").read_text(encoding="utf-8"))["max_position_embeddings"]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # whoever loads the checkpoint says what is wrong with it
    return limit if isinstance(limit, int) else None


def absolute(path: str, cwd: Path) -> Path:
    """`path` as seen from `cwd`, `~` expanded, links kept."""
    return Path(os.path.normpath(cwd / Path(path).expanduser()))


def find_weights(path: str, cwd: Path, revision: str | None) -> Weights:
    """The folder at `path`; a name that is no folder here but looks like a hub id is one.

    Raises ConfigError for a revision of a folder.
    """
    folder = absolute(path, cwd)
    if folder.is_dir():
        if revision is not None:
            raise ConfigError(
                f"model.revision: got {revision} for the folder {folder}; valid: none, or a hub id as the model"
            )
        return Weights(path=str(folder), fingerprint=folder_fingerprint(folder))
    if HUB_ID.fullmatch(path):
        return Weights(path=path, fingerprint=f"hub:{path}@{revision or 'main'}", is_folder=False)
    return Weights(path=str(folder), fingerprint=f"missing:{folder}", found=False)


def _find_adapter(config: Config, cwd: Path, model: Weights) -> Weights:
    if config.model.lora_path is not None:
        candidates = [absolute(config.model.lora_path, cwd)]
    else:
        beside = [Path(model.path) / LORA_FOLDER] if model.is_folder else []
        candidates = [*beside, PROJECT_DIR / "miscs" / LORA_FOLDER]
    for folder in candidates:
        if folder.is_dir():
            return Weights(path=str(folder), fingerprint=folder_fingerprint(folder))
    raise ConfigError(
        f"lora: no adapter folder at {' or '.join(map(str, candidates))}; valid: a folder with adapter_config.json, "
        "named by --lora-path (model.lora_path)"
    )


def settle(jobs: Sequence[JobSpec], fresh: bool) -> tuple[JobState, ...]:
    """Each job in the folder it goes on in, the newest of its name or with `fresh` one after it; and what is left."""
    states = []
    for job in jobs:
        newest = latest_round(Path(job.run_dir))
        number = max(newest, 1) + (1 if fresh and newest else 0)
        spec = dataclasses.replace(job, run_dir=str(round_dir(Path(job.run_dir), number)))
        states.append(job_state(spec))
    return tuple(states)


def job_state(spec: JobSpec) -> JobState:
    """What the files of a job's folder say."""
    if not Path(spec.run_dir).is_dir():
        return JobState(spec, Progress.NEW, sum(task.num_requests for task in spec.tasks))
    done = RunPaths(Path(spec.run_dir)).completed(spec.index).exists() and is_finished(spec)
    num_left = 0 if done else sum(remaining(spec).values())
    return JobState(spec, Progress.SKIPPED if done else Progress.RESUMED, num_left)


def latest_round(run_dir: Path) -> int:
    """The highest round among `run_dir` (1) and `run_dir`_rN (N) on disk; 0 when there is none."""
    suffixes = (path.name.removeprefix(run_dir.name) for path in run_dir.parent.glob(f"{run_dir.name}_r*"))
    rounds = [int(match[1]) for suffix in suffixes if (match := re.fullmatch(r"_r([1-9]\d*)", suffix))]
    return max([int(run_dir.is_dir()), *rounds])


def round_dir(run_dir: Path, number: int) -> Path:
    """The folder of a round; the first has no suffix."""
    return run_dir if number == 1 else run_dir.with_name(f"{run_dir.name}_r{number}")
