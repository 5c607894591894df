"""Plans the sweeps of one command together: one, or all combinations of a multirun."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trimode.core.errors import ConfigError
from trimode.pipeline.config.schema import Backend, Config
from trimode.pipeline.plan.jobs import plan
from trimode.pipeline.plan.rounds import JobProgress, JobState, continue_or_start
from trimode.pipeline.plan.survey import Survey, survey
from trimode.pipeline.spec import Executor, JobSpec


@dataclass(frozen=True, slots=True)
class PlannedSweep:
    """One config with its jobs."""

    config: Config
    survey: Survey
    states: tuple[JobState, ...]

    @property
    def jobs(self) -> list[JobSpec]:
        """The jobs of which something is left to run."""
        return [state.spec for state in self.states if state.progress is not JobProgress.SKIPPED]


def plan_sweeps(configs: Sequence[Config], cwd: Path) -> list[PlannedSweep]:
    """Returns each config with its jobs. Relative paths start at `cwd`. Raises ConfigError.

    Weights that several configs share are looked at once.
    """
    seen: dict[str, Survey] = {}
    surveys = []
    for config in configs:
        lora = any(mode.lora for mode in config.modes.values())
        server = config.balancer if config.balancer.backend is Backend.openai else None
        key = repr((config.model, lora, config.cluster.hub_cache, server))
        if key not in seen:
            seen[key] = survey(config, cwd)
        surveys.append(seen[key])
    plans = [plan(config, found) for config, found in zip(configs, surveys, strict=True)]
    if not any(config.cluster.executor is Executor.local for config in configs):  # those run one after another
        plans = kept_apart(plans)
    return [
        PlannedSweep(config, found, continue_or_start(jobs, config.fresh))
        for config, found, jobs in zip(configs, surveys, plans, strict=True)
    ]


def kept_apart(plans: Sequence[tuple[JobSpec, ...]]) -> list[tuple[JobSpec, ...]]:
    """Returns the plans with a number of its own for every job of a run folder.

    Raises ConfigError if jobs of two plans would write the same files.
    """
    there: dict[str, list[JobSpec]] = {}
    made = []
    for jobs in plans:
        numbered = []
        for job in jobs:
            others = there.get(job.run_dir, [])
            for task, other in itertools.product(job.tasks, (task for each in others for task in each.tasks)):
                if task.shares_files_with(other):
                    raise ConfigError(
                        f"combinations of a multirun differ in what they answer: two of them answer {task.benchmark} "
                        f"in {job.run_dir}; valid: other models, modes or benchmarks, or one command after the other"
                    )
            used = {each.index for each in others}
            free = job.index if job.index not in used else next(n for n in itertools.count() if n not in used)
            numbered.append(dataclasses.replace(job, index=free))
        for job in numbered:
            there.setdefault(job.run_dir, []).append(job)
        made.append(tuple(numbered))
    return made
