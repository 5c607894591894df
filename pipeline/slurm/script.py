"""Pure functions from job specs to the text that goes to Slurm: container arguments, parameters, sbatch scripts.

The dry run prints exactly what a submission submits because both use these functions.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

from submitit.slurm.slurm import _make_sbatch_string
from trimode.core.project import IMPORT_DIR, PROJECT_DIR
from trimode.pipeline.slurm.apptainer import apptainer_arguments
from trimode.pipeline.slurm.arrays import array_mounts, array_name, submission_dir
from trimode.pipeline.slurm.nodes import JOIN_MODULE
from trimode.pipeline.slurm.requeue import EARLY_WARNING, srun_function, warning_s
from trimode.pipeline.spec import Container, JobSpec, ResourceSpec

TASK_MODULE = "trimode.pipeline.launch.task"
"""What a job runs: it takes its call from the array's folder."""


def container_arguments(resources: ResourceSpec, mounts: Sequence[str]) -> list[str]:
    """Returns srun's pyxis options with these mounts; none without a container, or with one of another kind."""
    if resources.container is not Container.pyxis:
        return []
    return [
        f"--container-image={resources.container_image or 'IMAGE'}",
        f"--container-workdir={PROJECT_DIR}",
        f"--container-mounts={','.join(mounts)}",
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
    return {
        "job_name": array_name(jobs),
        "partition": resources.partition,
        "account": resources.account,
        "time": resources.time_limit_min,
        "nodes": resources.num_nodes,
        "ntasks_per_node": 1,
        "gpus_per_node": None if resources.asks_gpus_by_gres else resources.num_gpus or None,
        "cpus_per_task": resources.cpus_per_task,
        "mem": None if resources.mem_gb is None else f"{resources.mem_gb}GB",
        "wckey": None,
        "array_parallelism": resources.array_throttle or len(jobs),
        "stderr_to_stdout": True,
        "setup": setup_lines(jobs),
        "srun_args": srun_arguments(jobs),
        "additional_parameters": {
            "signal": f"B:USR2@{warning_s(resources.time_limit_min)}",
            "requeue" if resources.max_requeues and not resources.num_follow_ups else "no-requeue": True,
            **({"no-kill": True} if resources.num_nodes > 1 else {}),
            **{name: True if value is None else value for name, value in resources.sbatch},
        },
    }


def srun_arguments(jobs: Sequence[JobSpec]) -> list[str]:
    """Returns the arguments of every srun of an array's batch script."""
    resources = jobs[0].resources
    arguments = container_arguments(resources, array_mounts(jobs))
    if resources.cpus_per_task is not None:
        arguments.append(f"--cpus-per-task={resources.cpus_per_task}")  # since Slurm 22.05 a step does not inherit it
    return [*arguments, *resources.srun]


def join_step(jobs: Sequence[JobSpec]) -> str:
    """Returns srun's arguments and the command of a step that joins the server from a further node."""
    python = python_command(jobs[0].resources, array_mounts(jobs))
    return " ".join(filter(None, (shlex.join(srun_arguments(jobs)), python, "-u -m", JOIN_MODULE)))


def setup_lines(jobs: Sequence[JobSpec]) -> list[str]:
    """Returns the shell lines of the batch script that run before the job."""
    resources = jobs[0].resources
    types = shlex.quote(str(IMPORT_DIR))
    return [
        EARLY_WARNING,
        "export PYTHONSAFEPATH=1",
        f"export PYTHONPATH={types}${{PYTHONPATH:+:$PYTHONPATH}}",
        *(f"module load {shlex.quote(name)}" for name in resources.modules),
        *resources.setup,
        *srun_function(resources, join_step(jobs)),
    ]


def task_command(jobs: Sequence[JobSpec]) -> str:
    """Returns the shell command that runs each job of an array inside its allocation."""
    python = python_command(jobs[0].resources, array_mounts(jobs))
    return f"{python} -u -m {TASK_MODULE} {shlex.quote(str(submission_dir(jobs)))}"


def sbatch_text(jobs: Sequence[JobSpec]) -> str:
    """Returns the batch script of one array, or of a single job, exactly as it goes to sbatch."""
    folder = submission_dir(jobs)
    count = {"map_count": len(jobs)} if len(jobs) > 1 else {}
    return str(_make_sbatch_string(command=task_command(jobs), folder=folder, **slurm_parameters(jobs), **count))
