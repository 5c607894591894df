"""The batch script of the doctor's probe job: a real job's, with another command, less time and fewer resources."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path

from submitit.slurm.slurm import _make_sbatch_string
from trimode.pipeline.slurm.script import python_command, slurm_parameters
from trimode.pipeline.spec import JobSpec, Requeue

JOB_NAME = "trimode-probe"
MINUTES = 5
"""Time limit of the job. It is done within seconds; the rest is for slow shared folders."""
MEMORY_GB = 4
"""Memory where the real jobs ask for some: enough to unpack an image."""


def probe_text(job: JobSpec, folder: Path, program: Path) -> str:
    """Returns the script that runs `program` with `folder` as its argument, as `job` would run on its node."""
    asked = job.resources
    resources = dataclasses.replace(
        asked,
        num_gpus=min(1, asked.num_gpus),
        cpus_per_task=None if asked.cpus_per_task is None else 1,
        mem_gb=None if asked.mem_gb is None else min(MEMORY_GB, asked.mem_gb),
        time_limit_min=min(MINUTES, asked.time_limit_min),
        max_requeues=0,
        requeue=Requeue.slurm,
    )
    parameters = slurm_parameters([dataclasses.replace(job, resources=resources)]) | {"job_name": JOB_NAME}
    command = f"{python_command(resources)} -u {shlex.quote(str(program))} {shlex.quote(str(folder))}"
    return str(_make_sbatch_string(command=command, folder=folder, **parameters))
