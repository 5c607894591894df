"""The call of one job: starts it where the executor has put it, under Slurm or as a local child.

The job's function is named by its path, so that submitting a job does not import what running it needs.
"""

from __future__ import annotations

import importlib
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from trimode.core.processes import ProcessId, live_with, process_id
from trimode.pipeline.launch.owner import Owner, join
from trimode.pipeline.spec import Device, JobSpec

RUN_JOB = "trimode.pipeline.job.run:run_job"
GRACE_S = 40.0
"""Seconds a local job may take to stop by itself after its launcher has ended. It is killed afterwards."""
DEVICES = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True, slots=True)
class Launcher:
    """Who starts the jobs of a sweep, and what each of them runs."""

    owner: Owner
    """Claim on the run folders."""
    function: str = RUN_JOB
    """`module:name` of a function that takes the spec."""
    tokens: Mapping[str, str] = field(default_factory=dict)
    """Tokens of the claims that other commands hold on run folders in which this one adds jobs to living ones."""
    command: str = ""
    """What was typed to start them; empty if unknown."""

    def token(self, run_dir: str) -> str:
        """Returns the token of the claim that a job in this folder belongs to."""
        return self.tokens.get(run_dir, self.owner.token)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobCall:
    """One job, to be called in its own process."""

    spec: JobSpec
    token: str
    """Claim on the run folder that this job belongs to (`Owner.token`)."""
    launcher: ProcessId | None = None
    """A local job ends together with this process; None under Slurm."""
    devices: str | None = None
    """CUDA_VISIBLE_DEVICES of a local job; None = not set."""
    function: str = RUN_JOB
    """`module:name` of a function that takes the spec."""

    def __call__(self) -> None:
        """Runs the job to its end. Raises whatever the job raises."""
        if self.launcher is not None:
            self._prepare_process()
        join(Path(self.spec.run_dir), self.token)
        module, _, name = self.function.partition(":")
        run_job: Callable[[JobSpec], None] = getattr(importlib.import_module(module), name)
        run_job(self.spec)

    def _prepare_process(self) -> None:
        """Makes a local job end with its launcher and submitit's controller, and shows it the launcher's GPUs.

        Ctrl-C is the launcher's business: SIGINT, which the launcher has blocked, is ignored from now on.
        """
        assert self.launcher is not None
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        controller = process_id(os.getppid())
        live_with([self.launcher, *([controller] if controller else [])], GRACE_S)
        if self.devices is None:
            os.environ.pop(DEVICES, None)
        else:
            os.environ[DEVICES] = self.devices


def visible_devices(current: str | None, num_gpus: int, device: Device) -> str | None:
    """Returns CUDA_VISIBLE_DEVICES of a local job.

    On the CPU it is empty. With `num_gpus` it has the first of the current ones, else it stays as it is.
    """
    if device is Device.cpu:
        return ""
    if num_gpus == 0:
        return current
    known = (
        [str(index) for index in range(num_gpus)] if current is None else [item for item in current.split(",") if item]
    )
    return ",".join(known[:num_gpus])
