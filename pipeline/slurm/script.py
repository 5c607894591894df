"""The text that goes to Slurm: pure functions from job specs to container arguments, parameters and sbatch scripts.

Runs nothing and reads nothing. Dry run and submission print and submit the same text because both ask here.
"""

from __future__ import annotations

import hashlib
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from submitit.slurm.slurm import _make_sbatch_string
from trimode.core.project import PROJECT_DIR
from trimode.pipeline.spec import JobSpec, ResourceSpec

IMPORT_DIR = PROJECT_DIR / ".types"
"""On PYTHONPATH it makes the checkout importable as `trimode`, installed or not."""
TASK_MODULE = "submitit.core._submit"


def by_shape(jobs: Sequence[JobSpec]) -> list[tuple[JobSpec, ...]]:
    """Jobs that ask for the same resources, together: each group is one array."""
    shapes: dict[ResourceSpec, list[JobSpec]] = {}
    for job in jobs:
        shapes.setdefault(job.resources, []).append(job)
    return [tuple(group) for group in shapes.values()]


def submission_dir(jobs: Sequence[JobSpec]) -> Path:
    """Where submitit keeps the pickles and output of one array: the same jobs share a folder, others never do.

    Job ids may start again on a new cluster; a stale pickle found there then is the same job.
    """
    out_dir = Path(jobs[0].run_dir).parents[2]
    return out_dir / ".submitit" / hashlib.sha256(repr(tuple(jobs)).encode()).hexdigest()[:12]


def container_arguments(resources: ResourceSpec) -> list[str]:
    """srun's pyxis options; none without a container."""
    if resources.container == "none":
        return []
    return [
        f"--container-image={resources.container_image or 'IMAGE'}",
        f"--container-workdir={PROJECT_DIR}",
        f"--container-mounts={','.join(resources.container_mounts)}",
        "--no-container-mount-home",
    ]


def python_command(resources: ResourceSpec) -> str:
    """Shell words that start Python inside the job."""
    if resources.container == "none":
        return shlex.quote(sys.executable)
    return f"env PYTHONSAFEPATH=1 PYTHONPATH={shlex.quote(str(IMPORT_DIR))} {resources.container_python}"


def slurm_parameters(jobs: Sequence[JobSpec]) -> dict[str, object]:
    """submitit's parameters for one array of jobs of one shape; None = not asked for."""
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
        "additional_parameters": dict(resources.sbatch),
    }


def setup_lines(resources: ResourceSpec) -> list[str]:
    """Shell lines of the batch script before the job."""
    types = shlex.quote(str(IMPORT_DIR))
    return [
        "export PYTHONSAFEPATH=1",
        f"export PYTHONPATH={types}${{PYTHONPATH:+:$PYTHONPATH}}",
        *resources.setup,
    ]


def sbatch_text(jobs: Sequence[JobSpec]) -> str:
    """The batch script of one array (or of a single job), exactly as it goes to sbatch."""
    folder = submission_dir(jobs)
    command = f"{python_command(jobs[0].resources)} -u -m {TASK_MODULE} {shlex.quote(str(folder))}"
    count = {"map_count": len(jobs)} if len(jobs) > 1 else {}
    return str(_make_sbatch_string(command=command, folder=folder, **slurm_parameters(jobs), **count))
