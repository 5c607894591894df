"""The price of a whole sweep as the dry run shows it, as lines and as JSON."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trimode.core.counted import counted
from trimode.pipeline.console.progress import duration
from trimode.pipeline.plan.rounds import JobProgress, JobState
from trimode.pipeline.price.calibrate import ENOUGH_S
from trimode.pipeline.price.estimate import JobPrice, price
from trimode.pipeline.price.measured import measured_runs
from trimode.pipeline.price.precision import ASSUMED, half_width
from trimode.pipeline.run_folder.resume import remaining
from trimode.pipeline.spec import Executor, JobSpec

HEAD = ("job", "samples left", "start-up", "serving", "wall time", "GPU-hours", "measured on")
HOW = "to measure: the same command with --calibrate in place of --dry-run"


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepPrice:
    """What the jobs that would be started cost, and what is bought."""

    jobs: tuple[tuple[JobSpec, JobPrice | str], ...]
    """Each job with its price, or why it has none."""
    widths: tuple[tuple[str, int, int, float], ...]
    """Per benchmark: name, problems, repeats, expected half-width of its accuracy as a fraction."""
    greedy: bool

    @property
    def known(self) -> list[JobPrice]:
        """The prices that are known."""
        return [cost for _, cost in self.jobs if isinstance(cost, JobPrice)]

    def lines(self) -> list[str]:
        """Returns the price as text."""
        cells: list[tuple[str, ...]] = [HEAD, *(_cells(job, cost) for job, cost in self.jobs)]
        widths = [max(len(row[column]) for row in cells) for column in range(len(HEAD))]
        lines = ["Price"]
        if self.known:
            lines += [
                "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
                for row in cells
            ]
            lines.append(f"  {self._total()}")
        reasons = dict.fromkeys(cost for _, cost in self.jobs if isinstance(cost, str))
        for reason in reasons:
            names = ", ".join(job.name for job, cost in self.jobs if cost == reason)
            lines.append(f"  {names}: {reason}; {HOW}")
        for cost in self.known:
            if cost.guessed:
                lines.append(f"  {cost.job.name}: not measured, taken as the mean: {', '.join(cost.guessed)}")
            if cost.measured_s < ENOUGH_S:
                text = f"measured in {cost.measured_s:.1f} s only, so its time is a guess"
                lines.append(f"  {cost.job.name}: {text}; --calibrate again measures more samples, if there are more")
            if cost.num_runs > 1:
                limit = duration(60 * cost.job.resources.time_limit_min)
                lines.append(f"  {cost.job.name}: its time limit is {limit}: about {counted(cost.num_runs, 'run')}")
            elif cost.num_runs == 0:
                lines.append(f"  {cost.job.name}: its time limit is shorter than its start-up: give a longer --time")
        lines += ["", f"Expected precision (95 % interval at an assumed accuracy of {100 * ASSUMED:.0f} %)"]
        lines += [
            f"  {name}: +- {100 * width:.1f} points ({counted(problems, 'problem')}, {counted(repeats, 'repeat')})"
            for name, problems, repeats, width in self.widths
        ]
        if self.greedy and any(repeats > 1 for _, _, repeats, _ in self.widths):
            lines.append("  at temperature 0 the repeats of a problem agree and add nothing")
        return lines

    def _total(self) -> str:
        known = self.known
        hours = sum(cost.gpu_hours for cost in known)
        in_turn, longest = sum(cost.wall_s for cost in known), max(cost.wall_s for cost in known)
        local = known[0].job.resources.executor is Executor.local
        times = (
            f"{duration(in_turn)} one after another"
            if local
            else f"{duration(longest)} if all run at once, {duration(in_turn)} one after another, and the queue's time"
        )
        part = "" if len(known) == len(self.jobs) else f" ({len(known)} of {counted(len(self.jobs), 'job')})"
        return f"in all{part}: {times}" + (f"; {hours:.2f} GPU-hours" if hours else "; no GPUs")

    def to_json(self) -> dict[str, object]:
        """Returns the price as plain data; seconds and hours are null where nothing is measured."""
        jobs = []
        for job, cost in self.jobs:
            row: dict[str, object] = {"name": job.name, "run_dir": job.run_dir, "index": job.index}
            names = (
                "num_left",
                "startup_s",
                "serving_s",
                "finish_s",
                "wall_s",
                "gpu_hours",
                "num_measured",
                "measured_s",
            )
            for name in names:
                row[name] = None if isinstance(cost, str) else getattr(cost, name)
            jobs.append(row | {"why_unknown": cost if isinstance(cost, str) else None})
        fields = ("benchmark", "problems", "repeats", "half_width")
        precision = [dict(zip(fields, entry, strict=True)) for entry in self.widths]
        return {"jobs": jobs, "precision": precision, "assumed_accuracy": ASSUMED}


def sweep_price(states: Sequence[JobState], out_dir: Path) -> SweepPrice | None:
    """Returns the price of the jobs that would be started, from what was measured in `out_dir`; None without jobs."""
    started = [state for state in states if state.progress is not JobProgress.SKIPPED]
    if not started or started[0].spec.client.server is not None:
        return None  # the time of a running server is its own
    runs = measured_runs(out_dir)
    jobs = tuple((state.spec, price(state.spec, _left(state), runs)) for state in started)
    greedy = started[0].spec.decode.temperature == 0
    tasks = {task.benchmark: task for state in started for task in state.spec.tasks}
    widths = tuple(
        (name, task.num_rows, task.repeats, half_width(task.num_rows, task.repeats, greedy))
        for name, task in tasks.items()
    )
    return SweepPrice(jobs=jobs, widths=widths, greedy=greedy)


def _left(state: JobState) -> dict[str, int]:
    """Returns the samples left to ask per benchmark of a job."""
    if state.progress is JobProgress.NEW:
        return {task.benchmark: task.num_requests for task in state.spec.tasks}
    left: dict[str, int] = defaultdict(int)
    for (benchmark, _), count in remaining(state.spec).items():
        left[benchmark] += count
    return dict(left)


def _cells(job: JobSpec, cost: JobPrice | str) -> tuple[str, ...]:
    if isinstance(cost, str):
        return (job.name, "", "", "", "not known", "", "")
    return (
        job.name,
        str(cost.num_left),
        duration(cost.startup_s),
        duration(cost.serving_s),
        duration(cost.wall_s),
        f"{cost.gpu_hours:.2f}" if cost.job.resources.num_gpus else "-",
        f"{counted(cost.num_measured, 'sample')}, {duration(cost.measured_s)}",
    )
