"""Checks of this place: packages, weights, the hub's cache and token, and the space on disk."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from trimode.pipeline.launch.finding import Check, Finding, Subject, fail, ok, warn
from trimode.pipeline.launch.preflight import WORKER_PACKAGES, has_worker_packages
from trimode.pipeline.plan.hub_cache import hub_cache, snapshot
from trimode.pipeline.plan.survey import absolute
from trimode.pipeline.spec import Container

ROW_BYTES = 64 << 10
"""Space that one answer needs at most in most sweeps: its row, its ledger line and the report's share of it."""
LEAST_BYTES = 1 << 30
"""Space that any sweep needs: logs, and room for files that are written beside the ones they replace."""
LEAST_FILES, FILES_PER_JOB = 1000, 50
"""Files that any sweep needs at most, and those of a job."""
TOKEN_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACEHUB_API_TOKEN")


def check_packages(subject: Subject) -> Iterator[Finding]:
    """Looks for the workers' packages where jobs run in this environment."""
    if subject.survey.server is not None:
        return
    if subject.config.cluster.container is not Container.none:
        yield ok("packages", "those of the image count; the doctor cannot look into it without --probe")
    elif has_worker_packages():
        yield ok("packages", f"{', '.join(WORKER_PACKAGES)} are installed")
    else:
        yield warn(
            "packages",
            f"{', '.join(WORKER_PACKAGES)} are not all installed here",
            "eval.sh installs them into its .venv before the first run (bash eval.sh --setup worker)",
        )


def check_files(subject: Subject) -> Iterator[Finding]:
    """Looks into a checkpoint's folder for what the loader needs."""
    model = subject.survey.model
    if not model.found or not model.is_folder:
        return
    folder = Path(model.path)
    missing = [name for name in ("config.json",) if not (folder / name).is_file()]
    if not any(folder.glob("*.safetensors")):
        missing.append("*.safetensors")
    if missing:
        yield warn("checkpoint", f"{folder} lacks {', '.join(missing)}", "give the folder of a whole checkpoint")
    else:
        size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        text = f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
        yield ok("checkpoint", f"config.json and {text} of weights")


def check_hub(subject: Subject) -> Iterator[Finding]:
    """Looks for the hub's cache and token. The token is never shown."""
    cluster, model = subject.config.cluster, subject.survey.model
    if subject.survey.server is not None:
        return
    cache = hub_cache(os.environ, None if cluster.container is Container.none else cluster.hub_cache)
    token = next((name for name in TOKEN_VARIABLES if os.environ.get(name)), None)
    home = os.environ.get("HF_HOME") or (os.environ.get("XDG_CACHE_HOME") or "~/.cache") + "/huggingface"
    file = Path(os.environ.get("HF_TOKEN_PATH") or f"{home}/token").expanduser()
    if token is None and not file.is_file():
        said = "none; models that need no licence load without one"
        yield ok("hub token", said) if model.is_folder else warn("hub token", said, "`hf auth login`, or set HF_TOKEN")
    else:
        yield ok("hub token", f"present ({f'${token}' if token else file})")
    if model.is_folder:
        return
    files = snapshot(cache, model.path, subject.config.model.revision)
    if files is not None and any(files.glob("*.safetensors")):
        yield ok("hub cache", f"{model.path} is in {cache}")
    elif os.environ.get("HF_HUB_OFFLINE", "0").lower() in ("1", "on", "yes", "true"):
        yield fail(
            "hub cache", f"{model.path} is not in {cache}, and HF_HUB_OFFLINE is set", f"`hf download {model.path}`"
        )
    else:
        yield warn(
            "hub cache",
            f"{model.path} is not in {cache}; every job would download it",
            f"`hf download {model.path}` once, on a machine with a network",
        )


def check_disk(subject: Subject) -> Iterator[Finding]:
    """Compares the free space of the output folder with what the sweep may write, and writes a file there."""
    out_dir = absolute(subject.config.out_dir, subject.survey.cwd)
    there = next(path for path in (out_dir, *out_dir.parents) if path.is_dir())
    if not os.access(there, os.W_OK | os.X_OK):
        yield fail("out dir", f"{there} may not be written", "give --out-dir with a folder of yours that all nodes see")
        return
    num_requests = sum(task.num_requests for job in subject.jobs for task in job.tasks)
    need = LEAST_BYTES + num_requests * ROW_BYTES
    free = shutil.disk_usage(there).free
    text = f"{there}: {free / 1e9:.1f} GB free; {num_requests} answers need at most about {need / 1e9:.1f} GB"
    if free < need:
        yield warn("disk", text, "make room, or give --out-dir on another file system")
    else:
        yield ok("disk", text)
    stats = os.statvfs(there)
    if stats.f_files > 0 and stats.f_favail < LEAST_FILES + FILES_PER_JOB * len(subject.jobs):
        yield warn("inodes", f"{stats.f_favail} files may still be made in {there}", "remove files there")
    temporary = Path(os.environ.get("TMPDIR") or "/tmp")  # noqa: S108 - looked at, not written
    if temporary.is_dir() and shutil.disk_usage(temporary).free < LEAST_BYTES:
        yield warn("TMPDIR", f"{temporary} has less than 1 GB free", "set TMPDIR to a folder with space")


CHECKS: Sequence[Check] = (
    Check(name="packages", look=check_packages),
    Check(name="checkpoint", look=check_files),
    Check(name="hub", look=check_hub),
    Check(name="disk", look=check_disk),
)
"""Questions to this place, in the order of the screen."""
