"""What a job asks of its cluster: CPUs and memory by a rule where none are set, Slurm's options, mounts."""

from __future__ import annotations

import math
import shlex
from pathlib import Path

from trimode.core.errors import ConfigError
from trimode.core.project import PROJECT_DIR
from trimode.pipeline.config.schema import Backend, ClusterConfig, Config
from trimode.pipeline.config.submission_checks import stays_in_its_line
from trimode.pipeline.plan.survey import Survey, image_path
from trimode.pipeline.spec import Container, Device, Executor, ResourceSpec

CPUS_PER_WORKER = 4
"""One runs the engine, two prepare prompts, one is for Ray. On the CPU all four compute."""
CPUS_PER_SCORER = 1
CPUS_OF_THE_JOB = 2
"""For the balancer and the client."""
WEIGHTS_SHARE = 1.2
"""Memory that loading a checkpoint takes, as a share of its size on disk."""
GB_PER_WORKER = 6
"""Python, torch, CUDA's host memory and Ray's share."""
GB_PER_SCORER = 2
GB_OF_THE_JOB = 8
GB_STEP = 8
"""Memory is rounded up to a multiple of this, so that checkpoints of nearly one size share an array."""
CPU_OPTIONS = {"cpus-per-task", "cpus-per-gpu", "mincpus"}
MEMORY_OPTIONS = {"mem", "mem-per-cpu", "mem-per-gpu"}
"""Options of `cluster.sbatch` that say themselves how many CPUs and how much memory a job gets."""
OPTIONS = (
    *("qos", "constraint", "exclusive", "reservation", "gres", "mail_type", "mail_user", "comment"),
    *("dependency", "begin", "nice"),
)
"""Settings of a cluster that are sbatch options of the same name, with dashes."""


def resource_spec(config: Config, survey: Survey, mounts: tuple[str, ...]) -> ResourceSpec:
    """Returns what a job asks for. On the CPU no GPUs are asked for, and `cluster.gpus` is the number of workers.

    A job that asks a running server needs neither.
    """
    cluster = config.cluster
    on_server = config.balancer.backend is Backend.openai
    on_cpu = on_server or config.balancer.device is Device.cpu
    free = {
        name.replace("_", "-") for name, value in cluster.sbatch.items() if value is not None and value is not False
    }
    sized = cluster.sized and not cluster.exclusive and "exclusive" not in free
    sized &= cluster.executor is Executor.slurm
    return ResourceSpec(
        cluster=cluster.name,
        executor=cluster.executor,
        device=Device.cpu if on_server else config.balancer.device,
        num_gpus=0 if on_cpu else cluster.gpus or 0,
        num_workers=None if on_server else config.balancer.workers or (cluster.gpus if on_cpu else None),
        time_limit_min=cluster.time_limit_min,
        partition=cluster.partition or None,
        account=cluster.account or None,
        num_nodes=cluster.nodes,
        cpus_per_task=cluster.cpus_per_task or (needed_cpus(config) if sized and not free & CPU_OPTIONS else None),
        mem_gb=cluster.mem_gb or (needed_gb(config, survey) if sized and not free & MEMORY_OPTIONS else None),
        container=cluster.container,
        container_image=image_path(cluster.container_image, survey.cwd) if cluster.container_image else None,
        container_mounts=mounts,
        container_python=cluster.container_python,
        max_requeues=cluster.max_requeues,
        requeue=cluster.requeue,
        array_throttle=cluster.array_throttle,
        sbatch=sbatch_options(cluster),
        srun=tuple(cluster.srun),
        modules=tuple(cluster.modules),
        setup=(*_hub_setup(config), *cluster.setup),
    )


def sbatch_options(cluster: ClusterConfig) -> tuple[tuple[str, str | None], ...]:
    """Returns the options of sbatch beside those that every job has, with None as the value of a switch."""
    named = [(name.replace("_", "-"), getattr(cluster, name)) for name in OPTIONS]
    given = [
        (name, value)
        for name, value in [*named, *cluster.sbatch.items()]
        if value is not None and value is not False and value != ""
    ]
    return tuple((name, None if value is True else str(value)) for name, value in given)


def num_workers(config: Config) -> int:
    """Returns the workers of each node of a job; 0 if it asks a running server."""
    if config.balancer.backend is Backend.openai:
        return 0
    return config.balancer.workers or config.cluster.gpus or 1


def needed_cpus(config: Config) -> int:
    """Returns the CPUs of a node that a job needs: for each worker, each scoring process, balancer and client."""
    return CPUS_PER_WORKER * num_workers(config) + CPUS_PER_SCORER * config.client.num_scorers + CPUS_OF_THE_JOB


def needed_gb(config: Config, survey: Survey) -> int | None:
    """Returns the memory of a node that a job needs, in GB; None if the size of its weights or KV cache is not known.

    A GPU worker has its KV cache on the GPU. On the CPU its size is known only if `balancer.kv_cache_gb` is set.
    """
    weights = 0 if config.balancer.backend is Backend.openai else survey.model.num_bytes
    kv_cache = config.balancer.kv_cache_gb if config.balancer.device is Device.cpu else 0.0
    if weights is None or kv_cache is None:
        return None
    per_worker = WEIGHTS_SHARE * weights / 1e9 + GB_PER_WORKER + kv_cache
    total = per_worker * num_workers(config) + GB_PER_SCORER * config.client.num_scorers + GB_OF_THE_JOB
    return GB_STEP * math.ceil(total / GB_STEP)


def _hub_setup(config: Config) -> tuple[str, ...]:
    """Returns the line that names the shared hub cache to a container, which has a home folder of its own."""
    if config.cluster.container is Container.none or config.cluster.hub_cache is None:
        return ()
    return (f"export HF_HOME={shlex.quote(config.cluster.hub_cache)}",)


def container_mounts(config: Config, survey: Survey, out_dir: Path, data_dir: str | None) -> tuple[str, ...]:
    """Returns SRC:DST for every folder that a job in a container reads or writes.

    Each is mounted at its own path. A folder inside another one needs no mount of its own.
    """
    if config.cluster.executor is Executor.local or config.cluster.container is Container.none:
        return ()
    weights = [item for item in (survey.model, survey.tokenizer, survey.adapter) if item and item.is_folder]
    folders = [
        str(PROJECT_DIR),
        str(out_dir),
        *(item.path for item in weights),
        *(item for item in (data_dir, config.cluster.hub_cache) if item),
    ]
    folders += [target for item in weights for target in item.link_targets]
    outer: list[Path] = []
    for folder in map(Path, folders):
        if not any(folder.is_relative_to(known) for known in outer):
            outer.append(folder)
    mounts = [f"{folder}:{folder}" for folder in outer]
    for folder in outer:
        stays_in_its_line("a folder of a contained job", str(folder))
        if "," in str(folder) or ":" in str(folder):
            raise ConfigError(f"folders of a contained job have no comma or colon in their path: got {folder}")
    return (*mounts, *config.cluster.container_mounts)
