"""Finds what differs between the runs of one table besides the mode: settings, versions, data, problems and seeds."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from trimode.pipeline.analysis.job_specs import Json
from trimode.pipeline.analysis.run_names import run_names
from trimode.pipeline.analysis.runs import Run
from trimode.pipeline.run_folder.job_json import job_from_json

DECODE_FIELDS = ("temperature", "top_p", "max_new_tokens", "enable_thinking", "max_thinking_tokens", "eos_early_stop")
"""Decoding settings that should be equal in every mode."""

MODE_FIELDS = ("block_length", "threshold")
"""Decoding settings that belong to a mode: compared only between runs of the same one."""

_MISSING = "not recorded"


def differences(runs: Sequence[Run]) -> list[str]:
    """Returns one line per fact that is not the same in all `runs`, with the runs of each value; [] if all agree."""
    values: dict[str, dict[str, list[str]]] = {}
    names = run_names(runs)
    for name, run in zip(names, runs, strict=True):
        for fact, value in facts(run):
            holders = values.setdefault(fact, {}).setdefault(value, [])
            if name not in holders:
                holders.append(name)
    return [
        f"{fact} differs: " + "; ".join(f"{value} in {', '.join(holders)}" for value, holders in by_value.items())
        for fact, by_value in values.items()
        if len(by_value) > 1
    ]


def facts(run: Run) -> Iterator[tuple[str, str]]:
    """Yields (name, value) of all that should agree between the rows of a table.

    The name of a fact about one benchmark ends in the benchmark's name.
    """
    manifest = run.manifest
    if manifest and run.engine is None:
        yield "weights sha256", _short(manifest.get("weights_sha256"))
    if manifest and run.lora:
        yield "adapter sha256", _short(manifest.get("lora_sha256"))
    for name, task in run.tasks.items():
        if not task.rows:
            continue
        if manifest:
            yield f"prompts sha256 of {name}", _short(manifest.get("prompts", {}).get(name))
            yield f"data sha256 of {name}", _short((manifest.get("data", {}).get(name) or {}).get("sha256"))
        yield f"seeds of {name}", ",".join(map(str, task.seeds))
        if task.finished:
            yield f"number of problems of {name}", str(len(task.sample_ids))
    yield from _job_facts(run)


def mixed_code(run: Run) -> list[str]:
    """Returns a remark if parts of a run were made by different versions of the code; [] if not."""
    found: dict[str, list[str]] = {}
    jobs = run.manifest.get("jobs", {})
    for index, job in jobs.items() if isinstance(jobs, dict) else ():
        for version, start in _code_versions(job):
            found.setdefault(version, []).append(f"job {index}" + (f" from {start}" if start else ""))
    if len(found) < 2:
        return []
    parts = "; ".join(f"{_short(version)} ({', '.join(dict.fromkeys(places))})" for version, places in found.items())
    return [f"{run.path}: parts of this run were made by different versions of the code: {parts}"]


def _code_versions(job: object) -> list[tuple[str, str]]:
    """Returns (git commit, start) of every recorded run of a job; of older releases the job's last commit alone."""
    if not isinstance(job, dict):
        return []
    entries = [entry for entry in job.get("runs") or () if isinstance(entry, dict)]
    found = [(str(entry["git_commit"]), str(entry.get("start") or "")) for entry in entries if entry.get("git_commit")]
    last = job.get("git_commit")
    return found if not last or any(version == last for version, _ in found) else [*found, (str(last), "")]


def _job_facts(run: Run) -> Iterator[tuple[str, str]]:
    """Yields the settings and versions of every job that ran in the folder."""
    jobs = run.manifest.get("jobs", {})
    for job in jobs.values() if isinstance(jobs, dict) else ():
        if not isinstance(job, dict):
            continue  # reading the run has noted it
        spec = job_from_json(job.get("config"))
        server = spec.client.server if spec is not None else None
        if spec is not None:
            for field in DECODE_FIELDS:
                yield field, str(getattr(spec.decode, field))
            yield "client", spec.client.kind
            yield "engine", "trimode" if server is None else server.engine
        if spec is not None and server is None:
            for field in MODE_FIELDS:
                yield f"{field} of {run.label}", str(getattr(spec.decode, field))
        if server is not None:
            yield f"fields sent to {server.engine}", json.dumps(server.fields, sort_keys=True)
            yield from _versions(job)
            continue
        yield "dtype", str(job.get("dtype") or (spec.model.dtype if spec else _MISSING))
        yield "quantization", str(job.get("quantization") or (spec.model.quantization.value if spec else "none"))
        yield "git commit", ", ".join(dict.fromkeys(_short(version) for version, _ in _code_versions(job))) or _MISSING
        yield from _versions(job)


def _versions(job: Json) -> Iterator[tuple[str, str]]:
    """Yields the versions on the job's side, then those on the worker's side."""
    for package, version in sorted((job.get("versions") or {}).items()):
        yield f"version of {package}", str(version)
    for package, version in sorted((job.get("worker_versions") or {}).items()):
        yield f"version of {package} in the workers", str(version)


def _short(value: object) -> str:
    """Returns the first characters of a hash, enough to tell two apart, and the mark of uncommitted changes."""
    if not value:
        return _MISSING
    digits, plus, changes = str(value).partition("+")
    return digits[:12] + plus + changes
