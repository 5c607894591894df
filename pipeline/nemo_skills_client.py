"""The client that drives an installed NeMo-Skills.

Knows the balancer by its address only.
"""

from __future__ import annotations

from trimode.pipeline.paths import RunPaths
from trimode.pipeline.spec import JobSpec, TaskSpec
from trimode.workers.protocol import ConfigError


def run_task(_spec: JobSpec, task: TaskSpec, _url: str, _paths: RunPaths) -> None:
    """Runs one benchmark through NeMo-Skills. Raises ConfigError: not supported yet."""
    raise ConfigError(f"client nemo_skills can not run {task.benchmark} yet; valid: client=embedded")
