"""Prints a sweep without starting it: settings, jobs, and the exact script of each. Writes nothing.

Plan and scripts come from the functions that a submission uses.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
from collections import Counter
from collections.abc import Mapping, Sequence

from trimode.core.counted import counted
from trimode.core.protocol import Quantization
from trimode.pipeline.benchmarks import without_scorer
from trimode.pipeline.config.schema import Config
from trimode.pipeline.launch.dry_run_server import server_settings
from trimode.pipeline.launch.fitting import fitting_arrays
from trimode.pipeline.launch.local import local_dir
from trimode.pipeline.plan.resources import resource_spec
from trimode.pipeline.plan.rounds import JobProgress, JobState
from trimode.pipeline.plan.survey import Survey, Weights, absolute
from trimode.pipeline.plan.sweeps import PlannedSweep
from trimode.pipeline.slurm.script import sbatch_text
from trimode.pipeline.spec import Container, Executor, JobSpec, ResourceSpec

LOCAL_MODULE = "submitit.core._submit"
"""What a local job runs: it loads the pickled call and calls it."""
SHOWN_VALUES = 3
"""Values of a setting that a dry run of several sweeps shows."""
END = "[dry-run] No jobs submitted."


def as_text(sweeps: Sequence[PlannedSweep], price: Sequence[str] = ()) -> str:
    """Returns the whole dry run as text: one summary, also of several sweeps. `price`: lines before the scripts."""
    lines = ["Settings"]
    lines += [f"  {label + ':':<22}{value}" for label, value in common_settings(sweeps)]
    states = [state for sweep in sweeps for state in sweep.states]
    lines += ["", "Jobs", *("  " + line for line in job_table(states))]
    if price:
        lines += ["", *price]
    jobs = started(states)
    scripts = job_scripts(jobs)
    for group, script in scripts:
        lines += ["", f"Script of {_names(group)}", script.rstrip("\n")]
    if (later := len(jobs) - sum(len(group) for group, _ in scripts)) > 0:
        lines += [
            "",
            f"{counted(later, 'more job')} would have to wait: Slurm takes no more of this user now (MaxSubmitJobs)",
        ]
    if len(sweeps) > 1:
        lines += [
            "",
            f"{len(sweeps)} sweeps, {counted(len(jobs), 'job')} to start in {counted(len(scripts), 'script')}",
        ]
    return "\n".join([*lines, "", END])


def _names(jobs: Sequence[JobSpec]) -> str:
    """The names of an array's jobs; of many jobs with the same names, each name once with a count."""
    counts = Counter(job.name for job in jobs)
    return ", ".join(name if count == 1 else f"{name} ({count} jobs)" for name, count in counts.items())


def as_json(sweeps: Sequence[PlannedSweep], price: Mapping[str, object] | None = None) -> str:
    """Returns the dry run as a JSON object: {settings, jobs: [{..., state, num_left, script}], price}.

    Of several sweeps it is {sweeps, price}. The script of a job that is skipped or would have to wait is null.
    """
    states = [state for sweep in sweeps for state in sweep.states]
    scripts = {(job.run_dir, job.index): text for jobs, text in job_scripts(started(states)) for job in jobs}
    parts = [_sweep_json(sweep, scripts) for sweep in sweeps]
    whole = parts[0] if len(parts) == 1 else {"sweeps": parts}
    return json.dumps(whole | {"price": price}, indent=2, ensure_ascii=False)


def _sweep_json(sweep: PlannedSweep, scripts: dict[tuple[str, int], str]) -> dict[str, object]:
    jobs = [
        dataclasses.asdict(state.spec)
        | {
            "mode": state.spec.decode.mode.value,
            "benchmarks": [task.benchmark for task in state.spec.tasks],
            "num_requests": sum(task.num_requests for task in state.spec.tasks),
            "without_scorer": without_scorer(state.spec),
            "state": state.progress.value,
            "num_left": state.num_left,
            "script": scripts.get((state.spec.run_dir, state.spec.index)),
        }
        for state in sweep.states
    ]
    return {"settings": {label: str(value) for label, value in settings(sweep.config, sweep.survey)}, "jobs": jobs}


def started(states: Sequence[JobState]) -> list[JobSpec]:
    """Returns the jobs that would be started."""
    return [state.spec for state in states if state.progress is not JobProgress.SKIPPED]


def common_settings(sweeps: Sequence[PlannedSweep]) -> list[tuple[str, str]]:
    """Returns label and value of every setting; where sweeps differ, their first values and how many there are."""
    values: dict[str, dict[str, None]] = {}
    for sweep in sweeps:
        for label, value in settings(sweep.config, sweep.survey):
            values.setdefault(label, {})[str(value)] = None
    rows = []
    for label, different in values.items():
        shown = " | ".join(list(different)[:SHOWN_VALUES])
        rows.append((label, shown if len(different) <= SHOWN_VALUES else f"{shown} | ... ({len(different)} values)"))
    return rows


def settings(config: Config, survey: Survey) -> list[tuple[str, object]]:
    """Returns label and value of every resolved setting."""
    model, cluster = config.model, config.cluster
    if survey.server is not None:
        return [*server_settings(config, survey, survey.server), *_submission(config, survey)]
    rows: list[tuple[str, object]] = [
        ("modes", ", ".join(config.modes)),
        ("model", _weights(survey.model)),
        ("tokenizer", _weights(survey.tokenizer) if survey.tokenizer else "the model's own"),
        ("dtype", model.dtype.value),
        ("quantization", _quantization(config, survey)),
        ("batch invariant", "on" if model.batch_invariant else "off"),
    ]
    for name, mode in config.modes.items():
        threshold = "none" if mode.threshold is None else f"{mode.threshold:g}"
        position = "config.json" if mode.max_position_embeddings is None else mode.max_position_embeddings
        rows.append(
            (
                name,
                f"block {mode.block_length}, threshold {threshold}, LoRA {'on' if mode.lora else 'off'}, "
                f"max model len {mode.max_model_len or 'config.json'}, max pos emb {position}",
            )
        )
    if survey.adapter:
        rows.append(("LoRA path", _adapter(survey.adapter)))
        rows.append(("LoRA acts on", "the drafter alone"))
    thinking = f"on, at most {config.max_thinking_tokens} tokens" if config.enable_thinking else "off"
    rows += [
        ("tokens", config.max_new_tokens),
        ("temperature", f"{config.temperature:g}"),
        ("top_p", f"{config.top_p:g}"),
        ("starting seed", config.starting_seed),
        ("thinking", thinking),
        ("EOS early stop", "on" if config.eos_early_stop else "off"),
        ("limit", config.limit or "none"),
        ("data", absolute(config.data_dir, survey.cwd) if config.data_dir else "bundled, cached or downloaded"),
        ("cluster", f"{cluster.name} ({cluster.executor.value})"),
        ("device", config.balancer.device.value),
        *(
            (("nodes", f"{cluster.nodes}; GPUs, workers, CPUs and memory are those of each"),)
            if cluster.nodes > 1
            else ()
        ),
        ("GPUs", cluster.gpus or "all visible"),
        ("workers", config.balancer.workers or "one per GPU, else 1"),
        ("batch size", config.balancer.max_num_seqs),
        ("client", config.client.kind.value),
        ("jobs per", config.jobs_per.value),
        ("chunks", config.num_chunks),
        ("out dir", absolute(config.out_dir, survey.cwd)),
    ]
    return rows + _submission(config, survey)


def _submission(config: Config, survey: Survey) -> list[tuple[str, object]]:
    """What Slurm is asked for; nothing for jobs on this machine."""
    cluster = config.cluster
    rows: list[tuple[str, object]] = []
    if cluster.executor is Executor.slurm:
        rows += [
            ("partition", cluster.partition or "the cluster's default"),
            ("account", cluster.account or _absent(cluster.needs_account)),
            ("time", cluster.time_limit),
            *_asked(resource_spec(config, survey, ())),
        ]
    if cluster.container is not Container.none:
        rows.append(("container", cluster.container.value))
        rows.append(("image", cluster.container_image or _absent(needed=True)))
    return rows


def _asked(resources: ResourceSpec) -> list[tuple[str, object]]:
    """What else Slurm is asked for, as far as something is."""
    options = [f"--{name}" if value is None else f"--{name}={value}" for name, value in resources.sbatch]
    rows: list[tuple[str, object]] = [
        ("CPUs", resources.cpus_per_task or ""),
        ("memory", f"{resources.mem_gb} GB" if resources.mem_gb else ""),
        ("sbatch options", " ".join(options)),
        ("srun arguments", " ".join(resources.srun)),
        ("modules", ", ".join(resources.modules)),
        ("jobs at a time", resources.array_throttle or ""),
        ("requeues", _follow_ups(resources) or resources.max_requeues or "none"),
    ]
    return [(label, value) for label, value in rows if value != ""]


def _follow_ups(resources: ResourceSpec) -> str:
    """What is submitted beside each array of a chain."""
    if not resources.num_follow_ups:
        return ""
    return (
        f"none; behind each array {resources.num_follow_ups} more with the same calls, "
        "--dependency=afternotok:<the arrays before> --kill-on-invalid-dep=yes"
    )


def job_table(states: Sequence[JobState]) -> list[str]:
    """Returns a head and one line per job. The output folder comes last, so that a long one shifts no column."""
    head = ("job", "mode", "benchmarks", "repeats", "workers", "requests", "state", "output folder")
    cells = [head, *(_cells(state) for state in states)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]


def _cells(state: JobState) -> tuple[str, ...]:
    spec = state.spec
    unscored = without_scorer(spec)
    names = [task.benchmark + (" (no scorer yet)" if task.benchmark in unscored else "") for task in spec.tasks]
    requests = sum(task.num_requests for task in spec.tasks)
    left = "" if state.progress is not JobProgress.RESUMED else f" ({state.num_left} left)"
    workers: object = spec.resources.all_workers or "per GPU"
    if spec.client.server is not None:
        workers = "none, a running server"
    mode = spec.decode.mode.value + (" + LoRA" if spec.decode.lora else "")
    repeats = ",".join(str(task.repeats) for task in spec.tasks)
    return (
        spec.name,
        mode,
        ",".join(names),
        repeats,
        str(workers),
        str(requests),
        state.progress.value + left,
        spec.run_dir,
    )


def _weights(weights: Weights) -> str:
    if not weights.is_folder:
        return f"{weights.path} (hub id)"
    return weights.path if weights.found else f"{weights.path} (not there)"


def _quantization(config: Config, survey: Survey) -> str:
    if survey.stored_quantization:
        return f"as in the checkpoint ({survey.stored_quantization})"
    chosen = config.model.quantization
    head = ", head too" if config.model.quantize_head else ""
    return chosen.value if chosen is Quantization.none else f"{chosen.value}, at load{head}"


def _adapter(adapter: Weights) -> str:
    if adapter.found:
        return adapter.path
    return f"{adapter.path} (expected in the model's repository; not yet at {' or '.join(adapter.looked_in)})"


def _absent(needed: bool) -> str:
    return "none (a real run needs one)" if needed else "none"


def local_text(job: JobSpec) -> str:
    """Returns the command of a local job."""
    folder = shlex.quote(str(local_dir(job)))
    return f"PYTHONSAFEPATH=1 SUBMITIT_EXECUTOR=local {shlex.quote(sys.executable)} -u -m {LOCAL_MODULE} {folder}\n"


def job_scripts(jobs: Sequence[JobSpec]) -> list[tuple[tuple[JobSpec, ...], str]]:
    """Returns every script of a submission with the jobs it runs."""
    if jobs and jobs[0].resources.executor is Executor.local:
        return [((job,), local_text(job)) for job in jobs]
    return [(group, sbatch_text(group)) for group in fitting_arrays(jobs)]
