"""The call that submitit pickles: starts one job where the executor has put it, under Slurm or as a local child.

Knows nothing of what a job does; the job's function is named by path, so that submitting needs none of its imports.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from trimode.core.processes import ProcessId, live_with, process_id
from trimode.pipeline.launch.owner import join
from trimode.pipeline.spec import JobSpec

RUN_JOB = "trimode.pipeline.job.run:run_job"
GRACE_S = 40.0
"""How long a local job may take to stop by itself once its launcher is gone."""
DEVICES = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobCall:
    """One job, ready to be called in its own process."""

    spec: JobSpec
    token: str
    """Claim on the run folder that this job belongs to."""
    launcher: ProcessId | None = None
    """Local jobs end when this process does."""
    devices: str | None = None
    """CUDA_VISIBLE_DEVICES of a local job as the launcher sees it; None = not set."""
    function: str = RUN_JOB
    """`module:name` of a function that takes the spec."""

    def __call__(self) -> None:
        """Runs the job to its end; raises what it raises."""
        if self.launcher is not None:
            self._settle_in()
        join(Path(self.spec.run_dir), self.token)
        module, _, name = self.function.partition(":")
        run_job: Callable[[JobSpec], None] = getattr(importlib.import_module(module), name)
        run_job(self.spec)

    def _settle_in(self) -> None:
        """A local job's place: it lives with its launcher and submitit's controller, and sees the launcher's GPUs."""
        assert self.launcher is not None
        controller = process_id(os.getppid())
        live_with([self.launcher, *([controller] if controller else [])], GRACE_S)
        if self.devices is None:
            os.environ.pop(DEVICES, None)
        else:
            os.environ[DEVICES] = self.devices


def visible_devices(current: str | None, num_gpus: int, device: str) -> str | None:
    """CUDA_VISIBLE_DEVICES of a local job: none on the CPU, the first `num_gpus` when asked for, else as it is."""
    if device == "cpu":
        return ""
    if num_gpus == 0:
        return current
    known = (
        [str(index) for index in range(num_gpus)] if current is None else [item for item in current.split(",") if item]
    )
    return ",".join(known[:num_gpus])
