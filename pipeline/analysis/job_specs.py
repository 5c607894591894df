"""Reads the job specs of a run folder's plan and manifest, and what they ask for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trimode.pipeline.run_folder.job_json import job_from_json
from trimode.pipeline.spec import JobSpec

Json = dict[str, Any]
"""A JSON object that is no row: a manifest or a plan."""


def read_jobs(source: Json, path: Path, notes: list[str]) -> list[JobSpec]:
    """Returns the job specs in a plan (a list) or a manifest (by index, under `config`); notes those it cannot read."""
    jobs = source.get("jobs", [])
    found = jobs.items() if isinstance(jobs, dict) else enumerate(jobs) if isinstance(jobs, list) else ()
    specs: list[JobSpec] = []
    for index, job in found:
        spec = job_from_json(job.get("config", job) if isinstance(job, dict) else job)
        if spec is not None:
            specs.append(spec)
        else:
            notes.append(
                f"{path}: the settings of job {index} are damaged or of another release and are left out: they are "
                "neither shown nor compared with other runs, and do not count in what is expected"
            )
    return specs


def num_expected(jobs: list[JobSpec], manifest: Json, benchmark: str) -> int | None:
    """Returns the number of rows (rows x seeds) that the last submission asked for; None if no spec names the task.

    The manifest says how many rows the data file has. The spec has the registry's number only.
    """
    data = manifest.get("data")
    facts = data.get(benchmark) if isinstance(data, dict) else None
    in_file = facts.get("num_rows") if isinstance(facts, dict) else None
    for job in jobs:
        for spec in job.tasks:
            if spec.benchmark == benchmark:
                rows = in_file if type(in_file) is int else spec.num_samples
                return (rows if spec.limit is None else min(spec.limit, rows)) * spec.repeats
    return None
