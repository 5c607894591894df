"""The price of planned jobs from measured runs: seconds until each is done, and the hours of its GPUs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trimode.pipeline.price.measured import MeasuredRun, plain, speed_key
from trimode.pipeline.spec import Device, JobSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPrice:
    """What one job will cost."""

    job: JobSpec
    num_left: int
    """Samples it will ask."""
    num_workers: int
    startup_s: float
    serving_s: float
    finish_s: float
    num_measured: int
    """Samples that the rates come from."""
    measured_s: float
    """Seconds in which they were measured."""
    guessed: tuple[str, ...]
    """Benchmarks that nothing measured: they have the mean of the others."""

    @property
    def wall_s(self) -> float:
        """Seconds from the job's start to its end, if nothing interrupts it."""
        return self.startup_s + self.serving_s + self.finish_s

    @property
    def gpu_hours(self) -> float:
        """Hours of GPUs that the job holds; 0 on the CPU."""
        return self.wall_s * self.job.resources.num_gpus * self.job.resources.num_nodes / 3600

    @property
    def num_runs(self) -> int:
        """Runs that the time limit allows it in, each with its own start-up."""
        limit = 60 * self.job.resources.time_limit_min - self.startup_s - self.finish_s
        return math.ceil(self.serving_s / limit) if limit > 0 else 0


def price(job: JobSpec, left: Mapping[str, int], runs: Sequence[MeasuredRun]) -> JobPrice | str:
    """Returns the price of a job, or why there is none.

    The speed of a benchmark is taken from runs of the same weights if there are any, else from runs of the same mode
    and a model of the same size. Batch size and kind of device must be the job's. Workers add up.

    Args:
        job: the planned job.
        left: samples left to ask per benchmark.
        runs: what was measured.
    """
    key = speed_key(job.identity, job.model.path)
    alike = [run for run in runs if run.key == key and run.on_gpu in _devices(job)]
    near = [run for run in alike if run.slots == job.client.max_num_seqs]
    near = [run for run in near if run.worked_s > 0 and run.serving_s > 0]
    if not near:
        if alike:
            others = sorted({run.slots for run in alike})
            return f"measured with batch size {', '.join(map(str, others))} only"
        return "nothing is measured of this mode and model"
    identity = plain(job.identity)
    own = [run for run in near if run.identity == identity]
    all_samples = sum(work.samples for run in near for work in run.tasks.values())
    mean_s = sum(run.worked_s for run in near) / all_samples
    worked_s, num_measured, guessed = 0.0, 0, []
    for name, count in left.items():
        works = [run.tasks[name] for run in own if name in run.tasks]
        works = works or [run.tasks[name] for run in near if name in run.tasks]
        samples = sum(work.samples for work in works)
        num_measured += samples
        if samples == 0:
            guessed.append(name)
        per_sample = sum(work.worked_s for work in works) / samples if samples else mean_s
        worked_s += count * per_sample
    base = own or near
    busy = sum(run.worked_s for run in base) / sum(run.serving_s * run.num_workers for run in base)
    num_workers = job.resources.all_workers or base[-1].num_workers
    return JobPrice(
        job=job,
        num_left=sum(left.values()),
        num_workers=num_workers,
        startup_s=statistics.median(run.startup_s for run in base),
        serving_s=worked_s / (busy * num_workers),
        finish_s=statistics.median(run.finish_s for run in base),
        num_measured=num_measured,
        measured_s=sum(run.serving_s for run in base),
        guessed=tuple(guessed),
    )


def _devices(job: JobSpec) -> tuple[bool, ...]:
    """Returns the kinds of device that the job may get: True for GPUs."""
    if job.resources.device is Device.cpu:
        return (False,)
    return (True,) if job.resources.device is Device.cuda or job.resources.num_gpus else (True, False)
