"""Checks before a real run that image, account, weights, scorers, data and tools are there: no job queues in vain.

A dry run needs none of these and skips the checks. The doctor prints what each of them finds.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from trimode.core.errors import ConfigError, SubmissionError, WorkerError
from trimode.core.project import PROJECT_DIR
from trimode.pipeline.benchmarks import load_benchmark, without_scorer
from trimode.pipeline.client.nemo_skills.installation import find_installation
from trimode.pipeline.config.schema import Backend, Config
from trimode.pipeline.data import data_root, load_rows
from trimode.pipeline.data.load import has_rows
from trimode.pipeline.data.sources import SOURCES
from trimode.pipeline.launch.finding import Check, Finding, Subject, demand, fail, failure, ok, warn
from trimode.pipeline.plan.survey import Survey, image_path
from trimode.pipeline.server.models import find_model
from trimode.pipeline.slurm.apptainer import wrong_image
from trimode.pipeline.spec import ClientKind, Container, Executor, JobSpec

WORKER_PACKAGES = ("torch", "ray", "transformers")


def preflight(config: Config, survey: Survey, jobs: Sequence[JobSpec]) -> None:
    """Checks what only a real run needs. Raises ConfigError for what is missing."""
    demand(CHECKS, Subject(config=config, survey=survey, jobs=jobs))
    cluster = config.cluster
    if cluster.executor is Executor.slurm and cluster.container is not Container.none and cluster.hub_cache:
        Path(cluster.hub_cache).expanduser().mkdir(parents=True, exist_ok=True)


def check_account(subject: Subject) -> Iterator[Finding]:
    """Looks for the account of a cluster that needs one."""
    cluster = subject.config.cluster
    if not subject.on_slurm:
        return
    if cluster.needs_account and not cluster.account:
        yield fail("account", f"cluster {cluster.name} needs an account: got none", "give --account or set ACCOUNT")
    else:
        yield ok("account", cluster.account or "none asked for")


def check_image(subject: Subject) -> Iterator[Finding]:
    """Looks for the image file of jobs that run in a container. A registry's URL is not asked."""
    cluster = subject.config.cluster
    if not subject.on_slurm or cluster.container is Container.none:
        return
    image = cluster.container_image
    if not image:
        yield fail(
            "image",
            f"cluster {cluster.name} runs in an image: got none",
            "give --image or set CONTAINER_IMAGE (without containers: --cluster bare; without SLURM: --local)",
        )
        return
    path = image_path(image, subject.survey.cwd)
    if valid := wrong_image(cluster.container, path):
        yield fail("image", f"image: got {path}", f"valid: {valid}")
        return
    if not path.startswith("/") or "#" in path:
        yield ok("image", f"{path} (of a registry, not asked)")
    elif not Path(path).is_file():
        yield fail("image", f"image: no file {path}", "valid: a .sqsh or .sif file, or a registry's URL")
    elif not os.access(path, os.R_OK):
        yield fail("image", f"image: {path} may not be read", f"ask its owner for it: chmod a+r {path}")
    else:
        yield ok("image", path)


def check_sbatch(subject: Subject) -> Iterator[Finding]:
    """Looks for sbatch."""
    if not subject.on_slurm:
        return
    found = shutil.which("sbatch")
    if found is None:
        yield fail("sbatch", "sbatch is not on PATH", "run on a machine that submits to SLURM, or use --local")
    else:
        yield ok("sbatch", found)


def check_weights(subject: Subject) -> Iterator[Finding]:
    """Looks for the folders of model and tokenizer. The model of a running server is asked for by `check_server`."""
    if subject.survey.server is not None:
        return
    for weights, name in ((subject.survey.model, "model"), (subject.survey.tokenizer, "tokenizer")):
        if weights is None:
            continue
        if not weights.found:
            yield fail(name, f"{name}: no folder {weights.path}", "valid: a checkpoint folder or a hub id")
        elif weights.is_folder:
            yield ok(name, weights.path)
        else:
            yield ok(name, f"{weights.path} (hub id)")


def check_server(subject: Subject) -> Iterator[Finding]:
    """Asks a running server for its models, and one of this project for the mode that it will use."""
    server = subject.survey.server
    if server is None:
        return
    try:
        model = find_model(server, subject.survey.model.path)
    except WorkerError as error:
        yield fail("server", str(error), "start the server, or give its address (--server)")
        return
    (mode,) = {mode.mode.value for mode in subject.config.modes.values()}
    used = model.default_mode and (server.fields.get("mode") or model.default_mode)
    if used and used != mode:
        yield fail(
            "server",
            f"--mode: got {mode}, but {server.url} will decode these requests in mode {used}",
            f"valid: --mode {used}, or +balancer.fields.mode={mode}, which asks the server for {mode}",
        )
    elif model.listed:
        owner = f", owned by {model.owned_by}" if model.owned_by else ""
        yield ok("server", f"{server.url} has {model.name}{owner}")
    else:
        yield warn("server", f"{server.url} lists no models", f"make sure that it has {model.name}")


def check_adapter(subject: Subject) -> Iterator[Finding]:
    """Looks for the adapter's folder."""
    adapter, model = subject.survey.adapter, subject.survey.model
    if adapter is None:
        return
    if not adapter.found:
        yield fail(
            "adapter",
            f"lora: no adapter folder at {' or '.join(adapter.looked_in)}",
            f"valid: {model.path} in the hub cache (`hf download {model.path}`), or a folder named by --lora-path "
            "(model.lora_path)",
        )
    else:
        yield ok("adapter", adapter.path)


def check_scorers(subject: Subject) -> Iterator[Finding]:
    """Looks for benchmarks that the client cannot score."""
    unscored = [name for job in subject.jobs[:1] for name in without_scorer(job) if name in subject.benchmarks]
    if unscored:
        others = ",".join(name for name in subject.benchmarks if name not in unscored)
        yield fail(
            "scorers",
            f"benchmarks need a scorer: got {', '.join(unscored)}, which client {subject.config.client.kind.value} "
            "cannot score",
            f"valid: --benchmarks {others or 'of other ones'}, or another client (client=nemo_skills)",
        )
    elif subject.jobs:
        yield ok("scorers", "every benchmark has one")


def check_data(subject: Subject) -> Iterator[Finding]:
    """Reads the rows of every benchmark. One that is missing hides no other one."""
    jobs = subject.jobs
    data_dir = Path(jobs[0].data_dir) if jobs and jobs[0].data_dir else None
    found = []
    missing: dict[str, ConfigError] = {}
    for name in subject.benchmarks:
        benchmark = load_benchmark(name)
        try:
            found.append(f"{name} {len(load_rows(benchmark, data_dir))}")
        except ConfigError as error:
            if benchmark.source == "bundled" or has_rows(benchmark, data_dir):
                yield failure("data", error)
            else:
                missing[name] = error
    if len(missing) > 1:
        yield _several_missing(list(missing), data_root(data_dir))
    else:
        yield from (failure("data", error) for error in missing.values())
    if found:
        yield ok("data", f"rows: {', '.join(found)}")


def _several_missing(names: Sequence[str], folder: Path) -> Finding:
    """Benchmarks without a file, in one line."""
    loaded = [name for name in names if name in SOURCES]
    made = [name for name in names if name not in SOURCES]
    ways = [f"`python -m trimode.pipeline.data prepare {' '.join(loaded)} --data-dir {folder}`"] if loaded else []
    ways += [f"NeMo-Skills' `ns prepare_data {' '.join(made)}`"] if made else []
    return fail("data", f"no data for {', '.join(names)} in {folder}", f"{'; '.join(ways)}; or give --data-dir")


def check_nemo_skills(subject: Subject) -> Iterator[Finding]:
    """Looks for NeMo-Skills where it is the client. In an image its own one counts, and the job looks for it."""
    config = subject.config
    if config.client.kind is ClientKind.nemo_skills and config.cluster.container is Container.none:
        find_installation()
        yield ok("NeMo-Skills", "found")


CHECKS = (
    Check(name="account", look=check_account),
    Check(name="image", look=check_image),
    Check(name="sbatch", look=check_sbatch),
    Check(name="weights", look=check_weights),
    Check(name="server", look=check_server),
    Check(name="adapter", look=check_adapter),
    Check(name="scorers", look=check_scorers),
    Check(name="data", look=check_data, limit_s=120.0),
    Check(name="NeMo-Skills", look=check_nemo_skills),
)
"""What a real run needs, in the order in which a missing thing is reported."""


def ensure_worker_packages(config: Config) -> None:
    """Installs the worker layer into this project's own environment if jobs will run there without it.

    Raises ConfigError if this is another environment that lacks it, SubmissionError if the installation fails.
    """
    if config.cluster.container is not Container.none or config.balancer.backend is Backend.openai:
        return
    if Path(sys.prefix) == PROJECT_DIR / ".venv" and not has_worker_packages():
        script = PROJECT_DIR / "scripts" / "setup_env.sh"
        if subprocess.run(["bash", str(script), "worker"], stdout=sys.stderr, check=False).returncode:
            raise SubmissionError("the worker packages could not be installed; see above")
    elif not has_worker_packages():
        raise ConfigError(
            f"jobs need {', '.join(WORKER_PACKAGES)}: {sys.executable} lacks them; valid: bash eval.sh, "
            'or pip install -e ".[worker]" into it'
        )


def has_worker_packages() -> bool:
    """True if this environment can run workers."""
    return all(importlib.util.find_spec(name) is not None for name in WORKER_PACKAGES)
