"""Names of the runs of one table: the mode, and where several runs have it, the settings that tell them apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trimode.core.protocol import Quantization
from trimode.pipeline.analysis.runs import Run
from trimode.pipeline.run_folder.job_json import job_from_json
from trimode.pipeline.spec import JobSpec


def run_names(runs: Sequence[Run]) -> list[str]:
    """Returns a name for each run: its label, and in brackets what tells it from other runs with that label.

    `dlm (block 8)` and `dlm (block 16)`: as few settings as tell the runs apart, else the names of the folders.
    """
    names: dict[int, str] = {}
    for label in dict.fromkeys(run.label for run in runs):
        group = [run for run in runs if run.label == label]
        apart = _told_apart(group) if len(group) > 1 else [""]
        names |= {id(run): label + (f" ({name})" if name else "") for run, name in zip(group, apart, strict=True)}
    return [names[id(run)] for run in runs]


def _told_apart(runs: Sequence[Run]) -> list[str]:
    """Returns what is different in each of several runs: settings if they suffice, else the folder of the run."""
    settings = [_settings(run) for run in runs]
    if all(settings):
        chosen: list[tuple[str, ...]] = [()] * len(runs)
        for values in zip(*settings, strict=True):
            longer = [(*parts, value) for parts, value in zip(chosen, values, strict=True)]
            if len(set(longer)) > len(set(chosen)):
                chosen = longer
        if len(set(chosen)) == len(runs):
            return [", ".join(_beginning(parts, chosen)) for parts in chosen]
    if len({run.path.name for run in runs}) == len(runs):
        return [run.path.name for run in runs]
    return [f"{run.path.name}, {run.path.parents[1].name}" for run in runs]


def _beginning(parts: tuple[str, ...], others: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """Returns the shortest beginning of one entry of `others` that no other entry has."""
    lengths = range(1, len(parts) + 1)
    return next(parts[:n] for n in lengths if sum(other[:n] == parts[:n] for other in others) == 1)


def _settings(run: Run) -> tuple[str, ...]:
    """Returns the settings of a run as short texts, in a fixed order, the most telling first; () if none is known."""
    job = _job(run)
    if job is None:
        return ()
    decode, model = job.decode, job.model
    return (
        Path(model.path).name,
        f"block {decode.block_length}",
        "no threshold" if decode.threshold is None else f"threshold {decode.threshold:g}",
        f"temperature {decode.temperature:g}",
        "unquantised" if model.quantization is Quantization.none else model.quantization.value,
        model.dtype.value,
        "thinking" if decode.enable_thinking else "no thinking",
        f"{decode.max_new_tokens} tokens",
        f"top_p {decode.top_p:g}",
    )


def _job(run: Run) -> JobSpec | None:
    """Returns the first job that ran in the folder, else the first that was planned; None if neither can be read."""
    jobs = run.manifest.get("jobs", {})
    for job in jobs.values() if isinstance(jobs, dict) else ():
        if isinstance(job, dict) and (spec := job_from_json(job.get("config"))) is not None:
            return spec
    return run.jobs[0] if run.jobs else None
