"""Pure functions from job specs to the text that goes to Slurm: container arguments, parameters, sbatch scripts.

The dry run prints exactly what a submission submits because both use these functions.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from submitit.slurm.slurm import _make_sbatch_string
from trimode.core.project import IMPORT_DIR, PROJECT_DIR
from trimode.pipeline.slurm.apptainer import apptainer_arguments
from trimode.pipeline.slurm.requeue import SRUN_FUNCTION, warning_s
from trimode.pipeline.spec import Container, JobSpec, ResourceSpec

TASK_MODULE = "submitit.core._submit"
"""What a job runs: it loads the pickled call and calls it."""


def by_shape(jobs: Sequence[JobSpec]) -> list[tuple[JobSpec, ...]]:
    """Groups jobs that ask for the same resources. Each group is one array."""
    shapes: dict[ResourceSpec, list[JobSpec]] = {}
    for job in jobs:
        shapes.setdefault(job.resources, []).append(job)
    return [tuple(group) for group in shapes.values()]


def submission_dir(jobs: Sequence[JobSpec]) -> Path:
    """Returns the folder in which submitit keeps pickles and output of one array, named by a hash of its jobs.

    A new cluster may hand out old job ids again. A stale pickle under such an id then describes the same job.
    """
    out_dir = Path(jobs[0].run_dir).parents[2]
    text = json.dumps([dataclasses.asdict(job) for job in jobs], sort_keys=True)
    return out_dir / ".submitit" / hashlib.sha256(text.encode()).hexdigest()[:12]


def container_arguments(resources: ResourceSpec) -> list[str]:
    """Returns srun's pyxis options; none without a container, or with one of another kind."""
    if resources.container is not Container.pyxis:
        return []
    return [
        f"--container-image={resources.container_image or 'IMAGE'}",
        f"--container-workdir={PROJECT_DIR}",
        f"--container-mounts={','.join(resources.container_mounts)}",
        "--no-container-mount-home",
    ]


def python_command(resources: ResourceSpec, mounts: Sequence[str] | None = None) -> str:
    """Returns the shell command that starts Python inside the job. Mounts: None stands for those of `resources`."""
    if resources.container is Container.none:
        return shlex.quote(sys.executable)
    inside = f"env PYTHONSAFEPATH=1 PYTHONPATH={shlex.quote(str(IMPORT_DIR))} {resources.container_python}"
    if resources.container is Container.apptainer:
        return f"{shlex.join(apptainer_arguments(resources, mounts or resources.container_mounts))} {inside}"
    return inside


def slurm_parameters(jobs: Sequence[JobSpec]) -> dict[str, object]:
    """Returns submitit's parameters for an array of jobs with the same resources. None: not asked for."""
    resources = jobs[0].resources
    srun = container_arguments(resources)
    if resources.cpus_per_task is not None:
        srun.append(f"--cpus-per-task={resources.cpus_per_task}")  # since Slurm 22.05 a step does not inherit it
    return {
        "job_name": f"trimode-{jobs[0].name}" if len(jobs) == 1 else "trimode",
        "partition": resources.partition,
        "account": resources.account,
        "time": resources.time_limit_min,
        "ntasks_per_node": 1,
        "gpus_per_node": resources.num_gpus or None,
        "cpus_per_task": resources.cpus_per_task,
        "mem": None if resources.mem_gb is None else f"{resources.mem_gb}GB",
        "wckey": None,
        "stderr_to_stdout": True,
        "setup": setup_lines(resources),
        "srun_args": srun,
        "additional_parameters": {
            "signal": f"B:USR2@{warning_s(resources.time_limit_min)}",
            "requeue" if resources.max_requeues else "no-requeue": True,
            **dict(resources.sbatch),
        },
    }


def setup_lines(resources: ResourceSpec) -> list[str]:
    """Returns the shell lines of the batch script that run before the job."""
    types = shlex.quote(str(IMPORT_DIR))
    return [
        "export PYTHONSAFEPATH=1",
        f"export PYTHONPATH={types}${{PYTHONPATH:+:$PYTHONPATH}}",
        *resources.setup,
        *SRUN_FUNCTION,
    ]


def sbatch_text(jobs: Sequence[JobSpec]) -> str:
    """Returns the batch script of one array, or of a single job, exactly as it goes to sbatch."""
    folder = submission_dir(jobs)
    command = f"{python_command(jobs[0].resources)} -u -m {TASK_MODULE} {shlex.quote(str(folder))}"
    count = {"map_count": len(jobs)} if len(jobs) > 1 else {}
    return str(_make_sbatch_string(command=command, folder=folder, **slurm_parameters(jobs), **count))
