"""Checks before a real run that image, account, weights, scorers, data and tools are there: no job queues in vain.

A dry run needs none of these and skips the checks.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from trimode.core.errors import ConfigError, SubmissionError
from trimode.core.project import PROJECT_DIR
from trimode.pipeline.benchmarks import load_benchmark, without_scorer
from trimode.pipeline.client.nemo_skills.installation import find_installation
from trimode.pipeline.config.schema import Config
from trimode.pipeline.data import load_rows
from trimode.pipeline.plan.survey import Survey, image_path
from trimode.pipeline.slurm.apptainer import wrong_image
from trimode.pipeline.spec import ClientKind, Container, Executor, JobSpec

WORKER_PACKAGES = ("torch", "ray", "transformers")


def preflight(config: Config, survey: Survey, jobs: Sequence[JobSpec]) -> None:
    """Checks what only a real run needs. Raises ConfigError for what is missing."""
    _check_cluster(config, survey)
    for weights, name in ((survey.model, "model"), (survey.tokenizer, "tokenizer")):
        if weights is not None and not weights.found:
            raise ConfigError(f"{name}: no folder {weights.path}; valid: a checkpoint folder or a hub id")
    if survey.adapter is not None and not survey.adapter.found:
        places = " or ".join(survey.adapter.looked_in)
        raise ConfigError(
            f"lora: no adapter folder at {places}; valid: {survey.model.path} in the hub cache "
            f"(`hf download {survey.model.path}`), or a folder named by --lora-path (model.lora_path)"
        )
    names = list(dict.fromkeys(task.benchmark for job in jobs for task in job.tasks))
    if unscored := [name for job in jobs[:1] for name in without_scorer(job) if name in names]:
        raise ConfigError(
            f"benchmarks need a scorer: got {', '.join(unscored)}, which client {config.client.kind.value} cannot "
            "score; valid: leave them out of --benchmarks, or another client (client=nemo_skills)"
        )
    data_dir = Path(jobs[0].data_dir) if jobs and jobs[0].data_dir else None
    for name in names:
        load_rows(load_benchmark(name), data_dir)
    # In an image it is the image's own NeMo-Skills that counts, and the job looks for it.
    if config.client.kind is ClientKind.nemo_skills and config.cluster.container is Container.none:
        find_installation()


def _check_cluster(config: Config, survey: Survey) -> None:
    cluster = config.cluster
    if cluster.executor is not Executor.slurm:
        return
    if cluster.needs_account and not cluster.account:
        raise ConfigError(f"cluster {cluster.name} needs an account: got none; give --account or set ACCOUNT")
    if cluster.container is not Container.none:
        image = cluster.container_image
        if not image:
            raise ConfigError(
                f"cluster {cluster.name} runs in an image: got none; give --image or set CONTAINER_IMAGE "
                "(without containers: --cluster bare; without SLURM: --local)"
            )
        path = image_path(image, survey.cwd)
        if valid := wrong_image(cluster.container, path):
            raise ConfigError(f"image: got {path}; valid: {valid}")
        if path.startswith("/") and "#" not in path and not Path(path).is_file():
            raise ConfigError(f"image: no file {path}; valid: a .sqsh or .sif file, or a registry's URL")
        if cluster.hub_cache:
            Path(cluster.hub_cache).expanduser().mkdir(parents=True, exist_ok=True)
    if shutil.which("sbatch") is None:
        raise ConfigError("sbatch is not on PATH: run on a machine that submits to SLURM, or use --local")


def ensure_worker_packages(config: Config) -> None:
    """Installs the worker layer into this project's own environment if jobs will run there without it.

    Raises ConfigError if this is another environment that lacks it, SubmissionError if the installation fails.
    """
    if config.cluster.container is not Container.none:
        return
    if Path(sys.prefix) == PROJECT_DIR / ".venv" and not _has_worker_packages():
        script = PROJECT_DIR / "scripts" / "setup_env.sh"
        if subprocess.run(["bash", str(script), "worker"], stdout=sys.stderr, check=False).returncode:
            raise SubmissionError("the worker packages could not be installed; see above")
    elif not _has_worker_packages():
        raise ConfigError(
            f"jobs need {', '.join(WORKER_PACKAGES)}: {sys.executable} lacks them; valid: bash eval.sh, "
            'or pip install -e ".[worker]" into it'
        )


def _has_worker_packages() -> bool:
    return all(importlib.util.find_spec(name) is not None for name in WORKER_PACKAGES)
