"""Which jobs are submitted together as one array, what the array is called, and where its files lie."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path

from trimode.pipeline.spec import JobSpec, ResourceSpec

NAME_CHARS = 60
"""Most characters of an array's name."""
LISTED = 3
"""Most different things that a name lists; of more it has the first and the number of the others."""


def out_dir_of(job: JobSpec) -> Path:
    """Returns the output folder of the sweep that a job belongs to."""
    return Path(job.run_dir).parents[2]


def by_shape(jobs: Sequence[JobSpec], max_size: int | None = None) -> list[tuple[JobSpec, ...]]:
    """Groups jobs of an output folder that ask for the same resources. Each group is one array of at most `max_size`.

    Folders that jobs need in their container do not part them: the array gets the mounts of all.
    """
    shapes: dict[tuple[Path, ResourceSpec], list[JobSpec]] = {}
    for job in jobs:
        shape = dataclasses.replace(job.resources, container_mounts=())
        shapes.setdefault((out_dir_of(job), shape), []).append(job)
    size = max_size or max(1, len(jobs))
    return [tuple(group[first : first + size]) for group in shapes.values() for first in range(0, len(group), size)]


def array_mounts(jobs: Sequence[JobSpec]) -> tuple[str, ...]:
    """Returns the mounts of all jobs of an array, each once."""
    return tuple(dict.fromkeys(mount for job in jobs for mount in job.resources.container_mounts))


def array_name(jobs: Sequence[JobSpec]) -> str:
    """Returns what an array holds, as Slurm's job name: models if there are several, then the names of its jobs."""
    models = _listed([Path(job.model.path).name for job in jobs])
    parts = [_listed([job.name for job in jobs])]
    if len({job.model.path for job in jobs}) > 1:
        parts.insert(0, models)
    name = "-".join(["trimode", *parts])
    return re.sub(r"[^A-Za-z0-9_.+-]", "_", name)[:NAME_CHARS]


def _listed(names: Sequence[str]) -> str:
    different = list(dict.fromkeys(names))
    if len(different) <= LISTED:
        return "+".join(different)
    return f"{different[0]}+{len(different) - 1}-more"


def submission_dir(jobs: Sequence[JobSpec]) -> Path:
    """Returns the folder of one array's calls, script and output, named by a hash of its jobs.

    A new cluster may hand out old job ids again. Files under such an id then describe the same job.
    """
    text = json.dumps([dataclasses.asdict(job) for job in jobs], sort_keys=True)
    return out_dir_of(jobs[0]) / ".submitit" / hashlib.sha256(text.encode()).hexdigest()[:12]
